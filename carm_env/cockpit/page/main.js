// The cockpit: what the person does goes to the server, and what the server shows is drawn.

import { BodyMap } from "./bodymap.js";
import { Display, isForPage, pressed } from "./display.js";
import { element } from "./elements.js";
import { Lane } from "./lanes.js";
import { ignoreHeldKeys } from "./held_keys.js";
import { notice, showConnected, showLost, showTaken } from "./notices.js";
import { ALIGNED, MOVES, action, extent, fillPad } from "./pad.js";
import { Scene } from "./scene.js";
import { Setup } from "./setup.js";
import { Connection } from "./socket.js";

const $ = (id) => document.getElementById(id);
const SESSION = "carm-env session";
let lanes = [];
let active = 0;
let isPlaying = false;
let waitsForStart = false;
const map = new BodyMap($("map"));
const scene = new Scene($("scene"));
const display = new Display(() => lanes.map((lane) => lane.viewer), () => lanes[active]?.viewer);

function send(message) {
  return connection.send(message);
}

function move(number) {
  const lane = lanes[active];
  if (!lane?.state || lane.state.outcome) return;
  performance.clearMarks("move sent");
  performance.mark("move sent");
  if (send({ type: "move", action: number, lane: active }) && lane.state.driver === "person" && number !== ALIGNED) lane.exposing();
}

function choose(number) {
  active = number;
  lanes.forEach((lane, index) => lane.root.classList.toggle("active", lanes.length > 1 && index === active));
  refresh();
}

// Buttons say what they would do now.
function refresh() {
  const lane = lanes[active];
  if (!lane?.state) return;
  const { state } = lane;
  const drives = state.driver === "person" && !state.outcome;
  pad.forEach((button) => { button.disabled = !drives || !state.mask[button.dataset.action]; });
  $("aligned").disabled = !drives;
  $("watch").hidden = !lanes.some((one) => one.state?.policy);
  const canStep = lanes.some(({ state: one }) => one?.driver === "agent" && !one.held && !one.outcome);
  $("step").disabled = !canStep || isPlaying;
  $("play").disabled = !canStep && !isPlaying;
  $("play").textContent = isPlaying ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", String(isPlaying));
  $("drive").textContent = drives ? "Hand back (T)" : "Take over (T)";
  $("drive").disabled = !state.policy || Boolean(state.outcome);
  const listens = state.driver === "agent" && !state.outcome;
  document.querySelectorAll("#say input, #say button, #phrases").forEach((field) => { field.disabled = !listens; });
}

function start(message) {
  notice("");
  waitsForStart = true;
  send(message);
}

function drive() {
  const state = lanes[active]?.state;
  if (state && !$("drive").disabled) send({ type: "drive", driver: state.driver === "agent" ? "person" : "agent", lane: active });
}

function play() {
  if ($("play").disabled) return;
  send(isPlaying ? { type: "pause" } : { type: "play", pace_s: Number($("pace").value) });
}

function say(text) {
  if (text.trim()) send({ type: "say", text, lane: active });
}

const session = () => sessionStorage.getItem(SESSION) || "";
const connection = new Connection("socket", () => ({ type: "hello", session: session() }), {
  lost() { showLost(); },
  welcome(message) {
    const isNew = message.session !== session();
    sessionStorage.setItem(SESSION, message.session);
    showConnected();
    $("export").href = `api/sessions/${encodeURIComponent(message.session)}/transcripts.zip`;
    if (isNew && lanes.length) clear();
    if (isNew) ready.then(() => setup.startFromAddress());
  },
  taken(text) { showTaken(text, () => connection.takeBack()); },
  refused(message) {
    $("empty").textContent = lanes.length ? "" : "Choose an episode and start it. The X-ray appears here.";
    lanes.forEach((lane) => lane.state && lane.showFacts(lane.state));
    waitsForStart = false;
    notice(message.text);
  },
  busy(message) {
    $("empty").hidden = lanes.length > 0;
    $("empty").textContent = message.text;
    if (lanes.length) notice(message.text);
  },
  begun(message) {
    notice("");
    $("empty").hidden = true;
    $("side").hidden = false;
    document.body.classList.remove("idle");
    lanes = Array.from({ length: message.lanes }, (_, number) => new Lane(number, send, display.adjust, choose));
    $("lanes").replaceChildren(...lanes.map((lane) => lane.root));
    $("localizer").value = message.localizer;
    map.begin(message.body);
    scene.begin(message.body);
    active = 0;
    if (waitsForStart) $("views").focus({ preventScroll: window.innerWidth > 760 });
    waitsForStart = false;
  },
  lane(message) { update(message.lane, message.state); },
  frame(header, pixels) {
    lanes[header.lane]?.viewer.load(pixels, header.width, header.height);
    update(header.lane, header.state);
    if (performance.getEntriesByName("move sent").length) {
      requestAnimationFrame(() => {
        if (!performance.getEntriesByName("move sent").length) return;
        performance.measure("move", "move sent");
        performance.clearMarks("move sent");
      });
    }
  },
  playing(message) {
    isPlaying = message.on;
    refresh();
  },
  talk(message) {
    const log = $("talk-log");
    if (message.from_start) log.replaceChildren();
    for (const line of message.lines) {
      const paragraph = element("p", "");
      const where = lanes.length > 1 ? ` to C-arm ${line.lane + 1}` : "";
      paragraph.append(element("b", `You${where}: `), line.text, " ", element("i", `(understood: ${line.understood})`));
      log.append(paragraph);
    }
    log.scrollTop = log.scrollHeight;
  },
});

function update(number, state) {
  const lane = lanes[number];
  if (!lane) return;
  const asked = lane.state?.decision?.question;
  lane.update(state, lanes.length === 1);
  if (state.held === "question" && state.decision.question !== asked) {
    $("talk-log").append(element("p", `${state.policy}: ${state.decision.question}`, "policy"));
  }
  lane.viewer.draw();
  map.update(number, state);
  scene.update(number, state);
  choose(active);
}

function clear() {
  lanes = [];
  $("lanes").replaceChildren();
  $("side").hidden = true;
  $("empty").hidden = false;
  document.body.classList.add("idle");
}

const pad = fillPad($("pad"), move);
ignoreHeldKeys();
const setup = new Setup(start, notice);
document.body.classList.add("idle");
const ready = setup.load().catch((error) => notice(`The lists could not be loaded: ${error.message}`));
setInterval(() => lanes.forEach((lane) => lane.tick()), 1000);

$("aligned").addEventListener("click", () => move(ALIGNED));
$("step").addEventListener("click", () => send({ type: "step" }));
$("play").addEventListener("click", play);
$("drive").addEventListener("click", drive);
$("localizer").addEventListener("change", (event) => send({ type: "show", localizer: event.target.value }));
$("say").addEventListener("submit", (event) => {
  event.preventDefault();
  say(event.target.elements.text.value);
  event.target.reset();
});
$("phrases").addEventListener("change", (event) => {
  $("say").elements.text.value = event.target.value;
  event.target.value = "";
  $("say").elements.text.focus();
});
$("scene-on").addEventListener("change", (event) => {
  $("scene").hidden = !event.target.checked;
  scene.draw();
});
$("scene-left").addEventListener("click", () => scene.rotate(-0.25));
$("scene-right").addEventListener("click", () => scene.rotate(0.25));

const KEYS = {
  ...display.keys,
  n: () => !$("step").disabled && send({ type: "step" }),
  t: drive,
  f: () => $("say").elements.text.focus(),
  g: () => display.toggle("regions"),
  1: () => choose(0),
  2: () => lanes.length > 1 && choose(1),
};

document.addEventListener("keydown", (event) => {
  if (!lanes.length || !isForPage(event)) return;
  const isOnControl = event.target.matches("button, a, summary");
  if (MOVES[event.key]) {
    event.preventDefault();
    move(action(...MOVES[event.key].map((direction) => direction * extent(event))));
  } else if (event.key === "Enter" && !isOnControl && !event.repeat) {
    move(ALIGNED);
  } else if (event.key === " " && !isOnControl) {
    event.preventDefault();
    play();
  } else {
    pressed(KEYS, event);
  }
});
