// The study page: one person plays the episodes of a suite, blinded to the truth.

import { Display, isForPage, pressed } from "./display.js";
import { clock, driveFacts, fillFacts, holdText } from "./elements.js";
import { ignoreHeldKeys } from "./held_keys.js";
import { notice, showConnected, showLost, showTaken } from "./notices.js";
import { ALIGNED, MOVES, action, extent, fillPad } from "./pad.js";
import { Connection } from "./socket.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const INVITATION = "Choose a suite and a pseudonym. The X-ray appears here.";
// The opening that the person asked for last, and the one that a reconnection repeats.
let wanted = null;
let opening = null;
let state = null;
let shownAt = 0;
let timeShown = null;
let isWaiting = false;
let asksToHandBack = false;

const canvas = document.querySelector("#episode canvas");
const lamp = document.querySelector(".lamp");
const viewer = new Viewer(canvas, (dx, dy) => display.adjust(dx, dy));
const display = new Display(() => [viewer], () => viewer);
const pad = fillPad($("pad"), decide);

const connection = new Connection("study/socket", () => opening, {
  opened() { showConnected(); },
  lost() {
    isWaiting = false;
    showLost();
    if (opening) notice("The connection is lost. Your decisions so far are saved; the study continues as soon as the server is back.");
    refresh();
  },
  taken(text) { showTaken(text, () => connection.takeBack()); },
  busy(message) {
    $("empty").textContent = message.text;
    if (state) notice(message.text);
  },
  refused(message) {
    isWaiting = false;
    if (state) hold();
    else opening = null;
    $("empty").textContent = INVITATION;
    notice(message.text);
    refresh();
  },
  frame(header, pixels) {
    if (!isWanted(header.study)) return;
    opening = wanted;
    const isFirst = !state;
    state = header.state;
    shownAt = performance.now();
    isWaiting = asksToHandBack = false;
    notice("");
    viewer.load(pixels, header.width, header.height);
    showEpisode(header.study);
    if (isFirst) $("views").focus({ preventScroll: true });
    requestAnimationFrame(() => {
      if (!performance.getEntriesByName("move sent").length) return;
      performance.measure("move", "move sent");
      performance.clearMarks("move sent");
    });
  },
  finished(message) {
    if (!isWanted(message.study)) return;
    opening = wanted;
    state = null;
    notice("");
    showFinished(message.study);
  },
});

// Whether it is not the answer to an earlier opening.
function isWanted(study) { return study.suite === wanted.suite && study.name === `human:${wanted.name}`; }

function hold() {
  lamp.textContent = holdText(state);
  lamp.classList.remove("on");
}

function showEpisode(study) {
  $("empty").hidden = $("finished").hidden = true;
  $("episode").hidden = $("side").hidden = false;
  document.body.classList.remove("idle");
  $("title").textContent = state.title;
  $("target").textContent = `Target: ${state.target.name}`;
  $("done").max = study.episodes;
  $("done").value = study.finished_episodes;
  $("done-label").textContent = `${study.name}: ${study.finished_episodes} of ${study.episodes} episodes are finished`;
  timeShown = fillFacts(document.querySelector(".facts"), driveFacts(state, state.seconds)).time;
  hold();
  const quality = state.quality === "ok" ? "" : `, view: ${state.quality}`;
  canvas.setAttribute("aria-label", `X-ray ${state.exposures}, target ${state.target.name}${quality}`);
  $("ended").hidden = !state.has_ended || study.is_finished;
  $("ended").querySelector("p").textContent = state.message;
  viewer.draw();
  if (study.is_finished) showFinished(study);
  refresh();
}

function showFinished(study) {
  $("empty").hidden = $("side").hidden = true;
  $("finished").hidden = false;
  document.body.classList.remove("idle");
  $("finished-text").textContent = `${study.name} has finished all ${study.episodes} episodes of suite ${study.suite}. The results are in ${study.folder}.`;
  const file = study.is_of_package ? "" : ` --suite ${study.suite}.yaml`;
  $("command").textContent = `carm-env evaluate --from ${study.folder} --out FOLDER${file}`;
}

function refresh() {
  // Not while an answer is awaited: a button that is disabled loses the focus of the keyboard.
  const drives = Boolean(state) && !state.has_ended;
  pad.forEach((button) => { button.disabled = !drives || !state.mask[button.dataset.action]; });
  $("aligned").disabled = $("hand-back").disabled = !drives;
  $("hand-back").textContent = asksToHandBack ? "Again: give this episode up" : "Hand back (B)";
}

// One message at a time: a decision is about the X-ray that is shown.
function send(message) {
  if (isWaiting || !connection.send(message)) return false;
  isWaiting = true;
  asksToHandBack = false;
  return true;
}

// Sends a decision about the X-ray that the page shows.
function sendDecision(message) {
  return send({ ...message, steps: state.steps, suite: wanted.suite, name: wanted.name });
}

function decide(number) {
  if (!state || state.has_ended || !state.mask[number]) return;
  performance.clearMarks("move sent");
  performance.mark("move sent");
  if (sendDecision({ type: "move", action: number }) && number !== ALIGNED) {
    lamp.textContent = "X-RAY ON";
    lamp.classList.add("on");
  }
}

// Asks once more, because it cannot be undone.
function handBack() {
  if (!state || state.has_ended || isWaiting) return;
  if (asksToHandBack) {
    sendDecision({ type: "hand_back" });
    return;
  }
  asksToHandBack = true;
  refresh();
}

function next() {
  if (state?.has_ended && !$("ended").hidden) send({ type: "next" });
}

function open(suite, name) {
  state = null;
  notice("");
  $("episode").hidden = $("side").hidden = $("finished").hidden = true;
  $("empty").hidden = false;
  wanted = opening = { type: "open", suite, name };
  history.replaceState(null, "", `study?${new URLSearchParams({ suite, name })}`);
  isWaiting = false;
  if (connection.isOpen) connection.send(opening);
}

document.body.classList.add("idle");
ignoreHeldKeys();
setInterval(() => {
  if (!state || state.has_ended) return;
  timeShown.textContent = clock(state.seconds + (performance.now() - shownAt) / 1000);
}, 1000);
$("aligned").addEventListener("click", () => decide(ALIGNED));
// The second click of a double-click is no confirmation.
$("hand-back").addEventListener("click", (event) => event.detail < 2 && handBack());
$("next").addEventListener("click", next);
$("open").addEventListener("submit", (event) => {
  event.preventDefault();
  open(event.target.elements.suite.value, event.target.elements.name.value);
});

const KEYS = { ...display.keys, b: (event) => !event.repeat && handBack(), n: next };
document.addEventListener("keydown", (event) => {
  if (!state || !isForPage(event)) return;
  if (MOVES[event.key]) {
    event.preventDefault();
    // A key that is held down takes no further X-rays.
    if (!event.repeat) decide(action(...MOVES[event.key].map((direction) => direction * extent(event))));
  } else if (event.key === "Enter" && !event.target.matches("button, a, summary") && !event.repeat) {
    decide(ALIGNED);
  } else {
    pressed(KEYS, event);
  }
});

async function load() {
  const { suites, only_studies: isAlone } = await (await fetch("api/studies")).json();
  document.querySelector("nav").hidden = isAlone;
  const field = $("f-suite");
  for (const suite of suites) field.append(new Option(`${suite.name} (${suite.episodes} episodes)`, suite.name));
  const describe = () => { $("about").textContent = suites.find((suite) => suite.name === field.value)?.description ?? ""; };
  field.addEventListener("change", describe);
  const given = new URLSearchParams(location.search);
  const [suite, name] = [given.get("suite"), given.get("name") ?? ""];
  field.value = suite ?? "smoke";
  $("f-name").value = name;
  describe();
  if (suite && name) open(suite, name);
}

load().catch((error) => notice(`The suites could not be loaded: ${error.message}`));
