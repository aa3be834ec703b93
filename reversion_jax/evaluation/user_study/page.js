// The page of a user study: the questions, the votes so far, and the two rankings. See also drag.js and screens.js.
"use strict";
const study = JSON.parse(document.getElementById("data").textContent);
const count = study.sets[0].pictures.length;
const letters = Array.from({ length: count }, (_, n) => String.fromCharCode(65 + n));
const criteria = [
  {
    key: "entity",
    title: "The two things",
    ask: "Does the picture show both things of the text, each complete and not blended with the other?",
  },
  {
    key: "relation",
    title: "The relation",
    ask: "Is the relation between the two things the same as in the examples?",
  },
];
document.documentElement.style.setProperty("--count", count);
const main = document.getElementById("main");

// The votes so far, stored by the browser: votes[set][criterion][rank - 1] is a letter or null.
const empty = () => Object.fromEntries(criteria.map(({ key }) => [key, Array(count).fill(null)]));
const fresh = () => ({
  voter: Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join(""),
  at: -1, // the number of the set on the screen; -1: the start screen, sets.length: the end screen
  votes: study.sets.map(empty),
});
const store = `study ${study.study}`;
let state = fresh();
try {
  state = JSON.parse(localStorage.getItem(store)) ?? state;
} catch {
  /* Without storage, the votes last until the page is closed. */
}
const save = () => {
  try {
    localStorage.setItem(store, JSON.stringify(state));
  } catch {
    /* Without storage, the votes last until the page is closed. */
  }
};

const ranked = (places) => !places.includes(null);
const done = (set) => criteria.every(({ key }) => ranked(state.votes[set][key]));
const undone = () => study.sets.map((_, set) => set).filter((set) => !done(set));

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}
const chip = () => element("span", { class: "chip" }, "as in the examples");
const button = (text, onclick, kind = "button", more = {}) =>
  element("button", { class: kind, onclick, ...more }, text);
const say = (text) => {
  document.getElementById("said").textContent = text;
};

function image(src, alt) {
  const made = element("img", { src, alt, draggable: "false" });
  // Pixelated scaling for small drawings, which would blur otherwise.
  made.onload = () => made.classList.toggle("small", made.naturalWidth <= 128);
  return made;
}

/* Puts a letter on a place. The letter that was there moves to the first letter's old place. If only one letter is left
   without a place, it gets the last free one. */
function put(places, letter, to) {
  const from = places.indexOf(letter);
  if (from >= 0) places[from] = places[to];
  places[to] = letter;
  const left = letters.filter((other) => !places.includes(other));
  if (left.length === 1) places[places.indexOf(null)] = left[0];
}

function change(key, letter, alter) {
  const places = state.votes[state.at][key];
  alter(places);
  save();
  document.getElementById(key).replaceWith(panel(criteria.find((one) => one.key === key)));
  showProgress();
  document.querySelector(`#${key} [data-letter="${letter}"]`)?.focus({ preventScroll: true });
  const rank = places.indexOf(letter) + 1;
  say(rank ? `${letter} on place ${rank} of ${count}` : `${letter} is not ranked`);
}

function pick(key, letter) {
  const places = state.votes[state.at][key];
  const at = places.indexOf(letter);
  const press = () =>
    change(key, letter, () => (at < 0 ? put(places, letter, places.lastIndexOf(null)) : (places[at] = null)));
  const step = (event) => {
    const to = at + { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (at >= 0 && to >= 0 && to < count) change(key, letter, () => put(places, letter, to));
  };
  const label = at < 0 ? `${letter}, not ranked yet` : `${letter}, on place ${at + 1} of ${count}`;
  return element(
    "button",
    { class: "pick", "data-letter": letter, "data-key": key, "aria-label": label, onclick: press, onkeydown: step },
    image(study.sets[state.at].pictures[letters.indexOf(letter)], ""),
    element("span", { class: "letter" }, letter),
  );
}

function panel({ key, title, ask }) {
  const places = state.votes[state.at][key];
  const left = letters.filter((letter) => !places.includes(letter));
  const slots = places.map((letter, n) =>
    element(
      "li",
      { class: letter ? "place full" : "place", "data-rank": n + 1 },
      ...(letter ? [pick(key, letter)] : []),
    ),
  );
  const reset = () => change(key, letters[0], () => places.fill(null));
  return element(
    "section",
    { class: ranked(places) ? "panel done" : "panel", id: key, "aria-label": title },
    element("h2", {}, title),
    element("p", {}, ask),
    element("ol", { class: "places" }, ...slots),
    element("div", { class: "ends" }, element("span", {}, "1 worst"), element("span", {}, `${count} best`)),
    left.length
      ? element(
          "div",
          { class: "tray" },
          ...left.map((letter) => pick(key, letter)),
          element("span", { class: "pale" }, "Drag to a place, or tap from best to worst."),
        )
      : element(
          "div",
          { class: "tray" },
          element("span", { class: "pale" }, "Ranked. Drag to change your mind."),
          button("Start again", reset, "quiet"),
        ),
  );
}
