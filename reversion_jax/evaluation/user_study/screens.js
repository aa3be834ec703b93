// The screens: the start, a set, and the end. Also saves the file of votes.

const closer = document.getElementById("closer");
closer.addEventListener("click", () => closer.close());
function look(src) {
  closer.replaceChildren(image(src, "The picture, larger"));
  closer.showModal();
}

function showSet() {
  const { text, pictures, exemplars } = study.sets[state.at];
  const examples = study.exemplars[exemplars].map(({ src, text: caption }) =>
    element(
      "figure",
      {},
      element("button", { class: "look", "aria-label": "Example, larger", onclick: () => look(src) }, image(src, "")),
      element("figcaption", {}, caption.join("…")),
    ),
  );
  const shown = pictures.map((src, n) =>
    element(
      "button",
      {
        class: "look",
        "data-letter": letters[n],
        "aria-label": `Picture ${letters[n]}, larger`,
        onclick: () => look(src),
      },
      image(src, ""),
      element("span", { class: "letter" }, letters[n]),
    ),
  );
  const last = state.at === study.sets.length - 1;
  main.replaceChildren(
    element("div", { class: "count pale" }, `Set ${state.at + 1} of ${study.sets.length}`),
    element("h1", {}, text[0], ...text.slice(1).flatMap((rest) => [chip(), rest])),
    element("div", { class: "label" }, "Examples of the relation"),
    element("div", { class: "examples" }, ...examples),
    element(
      "div",
      { class: "label" },
      "The pictures to rank ",
      element("span", { class: "pale" }, "– open one to look closer"),
    ),
    element("div", { class: "pictures" }, ...shown),
    element("div", { class: "panels" }, ...criteria.map(panel)),
    element(
      "nav",
      { class: "way" },
      button("Back", () => go(state.at - 1)),
      button(last ? "Finish" : "Next", () => go(state.at + 1), done(state.at) ? "button main" : "button", {
        id: "next",
      }),
    ),
  );
}

function showStart() {
  const begin = button("Start", () => go(0), "button main");
  main.replaceChildren(
    element(
      "div",
      { class: "text" },
      element("h1", {}, "Which picture fits best?"),
      element(
        "p",
        {},
        `You will see ${study.sets.length} sets. Each has a short text, some examples of a relation between ` +
          `two things, and ${count} pictures that were made for the text. Rank them twice, from 1 (worst) to ${count} (best):`,
      ),
      element("ul", {}, ...criteria.map(({ title, ask }) => element("li", {}, element("b", {}, title), ` – ${ask}`))),
      element(
        "p",
        {},
        "Answer each question separately; beauty does not count. Drag the pictures to their places, or tap " +
          "them from best to worst. With the keyboard, Enter ranks a picture and the arrow keys move it.",
      ),
      element(
        "p",
        { class: "pale" },
        "Nothing is sent anywhere: your rankings stay in this browser, so you may close the " +
          "page and come back, until you save them as a file at the end.",
      ),
      element("div", { class: "way" }, begin),
    ),
  );
}

function showEnd() {
  const open = undone();
  const jump = (set) => button(`Set ${set + 1}`, () => go(set));
  const again = () => {
    if (confirm("This forgets the rankings in this browser. Have you saved them?")) {
      state = fresh();
      go(0);
    }
  };
  main.replaceChildren(
    element(
      "div",
      { class: "text" },
      element("h1", {}, open.length ? "Not finished yet" : "Thank you!"),
      ...(open.length
        ? [
            element("p", {}, `${open.length} of ${study.sets.length} sets are not fully ranked yet:`),
            element("div", { class: "open" }, ...open.map(jump)),
          ]
        : [
            element(
              "p",
              {},
              "All sets are ranked. Save the votes and send the file to the person who sent you this page.",
            ),
          ]),
      element(
        "div",
        { class: "way" },
        button("Save the votes", saveVotes, "button main", { disabled: open.length > 0, id: "save" }),
        button("Back", () => go(state.at - 1)),
      ),
      element("p", {}),
      button("Someone else votes on this device", again, "quiet"),
    ),
  );
}

function saveVotes() {
  const votes = { format: "user study votes 1", study: study.study, voter: state.voter, votes: state.votes };
  const href = URL.createObjectURL(new Blob([JSON.stringify(votes, null, 1)], { type: "application/json" }));
  element("a", { href, download: `votes-${state.voter}.json` }).click();
}

function showProgress() {
  const ready = study.sets.length - undone().length;
  const bar = document.getElementById("progress");
  bar.style.setProperty("--done", `${(100 * ready) / study.sets.length}%`);
  bar.setAttribute("aria-valuenow", ready);
  bar.setAttribute("aria-valuemax", study.sets.length);
  document.getElementById("next")?.classList.toggle("main", done(state.at));
}

function go(to) {
  state.at = to;
  save();
  if (to < 0) showStart();
  else if (to < study.sets.length) showSet();
  else showEnd();
  showProgress();
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
}
go(state.at);
