// Drags pictures to places. Mouse and pen drag at once. A finger drags after a short rest, so that it can also scroll.

let drag = null; // after a press: {source, x, y}, the timer `rest` for a finger, and `ghost` once the picture moves
let dropped = false;
const REST_MS = 220,
  SLACK_PX = 6,
  EDGE_PX = 56;

const placeAt = ({ clientX, clientY }) => document.elementFromPoint(clientX, clientY)?.closest(".place");
const mark = (target) => {
  for (const place of document.querySelectorAll(".place")) place.classList.toggle("target", place === target);
};

function lift(event) {
  drag.ghost = element("div", { class: "ghost" }, drag.source.querySelector("img").cloneNode());
  document.body.append(drag.ghost);
  document.body.classList.add("dragging");
  drag.source.classList.add("moving");
  follow(event);
}

function follow(event) {
  drag.ghost.style.left = `${event.clientX}px`;
  drag.ghost.style.top = `${event.clientY}px`;
  mark(placeAt(event));
  if (event.clientY > innerHeight - EDGE_PX) scrollBy(0, 14);
  if (event.clientY < EDGE_PX) scrollBy(0, -14);
}

function finish(event) {
  if (!drag) return;
  const { ghost, source, rest } = drag;
  clearTimeout(rest);
  drag = null;
  if (!ghost) return;
  ghost.remove();
  document.body.classList.remove("dragging");
  source.classList.remove("moving");
  mark(null);
  if (event.type === "pointercancel") return;
  dropped = true; // ignore the click that follows
  setTimeout(() => {
    dropped = false;
  }, 50);
  const { letter, key } = source.dataset;
  const target = placeAt(event);
  if (target) {
    change(target.closest(".panel").id, letter, (places) => put(places, letter, target.dataset.rank - 1));
  } else if (key && state.votes[state.at][key].includes(letter)) {
    change(key, letter, (places) => {
      places[places.indexOf(letter)] = null;
    });
  }
}

addEventListener("pointerdown", (event) => {
  const source = event.target.closest?.("[data-letter]");
  if (!source || event.button !== 0 || drag) return;
  drag = { source, x: event.clientX, y: event.clientY };
  if (event.pointerType === "touch") drag.rest = setTimeout(() => lift(event), REST_MS);
});
addEventListener("pointermove", (event) => {
  if (!drag) return;
  if (drag.ghost) return follow(event);
  if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < SLACK_PX) return;
  if (event.pointerType !== "touch") return lift(event);
  clearTimeout(drag.rest);
  drag = null;
});
addEventListener("pointerup", finish);
addEventListener("pointercancel", finish);
addEventListener("click", (event) => dropped && event.stopPropagation(), { capture: true });
addEventListener("touchmove", (event) => drag?.ghost && event.preventDefault(), { passive: false });
addEventListener("contextmenu", (event) => event.target.closest?.("[data-letter]") && event.preventDefault());
