// The annotation page: clicks go to the server, which saves each of them, and what it returns is drawn.

import { AnnotationImage } from "./annotation_image.js";
import { Cohort } from "./cohort.js";
import { Display, isForPage, pressed } from "./display.js";
import { element } from "./elements.js";
import { ignoreHeldKeys } from "./held_keys.js";
import { notice, showConnected, showLost, showTaken } from "./notices.js";
import { Connection } from "./socket.js";

const $ = (id) => document.getElementById(id);
const INVITATION = "Enter a pseudonym, choose a CT and open it. The images appear here.";
const DEPTHS = { lateral: "depth from the lateral image", bone: "depth of the strongest bone", assumed: "depth assumed" };
const SIGNS = { open: "○", placed: "●", na: "NA" };
// The opening that the person asked for last, and the one that a reconnection repeats.
let wanted = null;
let opening = null;
let state = null;
let isWaiting = false;
let active = null;
// The button that would erase the position of the current landmark, and asks once more.
let asks = null;
const ERASE = { absent: ["NA (A)", "Again: NA"], clear: ["Clear (C)", "Again: clear"] };

const images = [...document.querySelectorAll(".image")].map((figure) => new AnnotationImage(figure, {
  adjust: (dx, dy) => display.adjust(dx, dy),
  place: (view, u, v) => change({ type: "click", view, u, v }),
  nudge: (plane, right, up) => change({ type: "nudge", plane, right_mm: right, up_mm: up }),
  focused: (image) => { active = image; },
}));
const display = new Display(() => images.map((image) => image.viewer), () => (active ?? images[0]).viewer);
const cohort = new Cohort(open);

const connection = new Connection("annotate/socket", () => opening, {
  opened() { showConnected(); },
  lost() {
    showLost();
    if (state) notice("The connection is lost. Everything shown as saved is on the disk. The page continues when the server is back.");
    // The state that follows a reconnection is an answer, too.
    isWaiting = true;
  },
  taken(text) { showTaken(text, () => connection.takeBack()); },
  busy(message) {
    $("empty").textContent = message.text;
    if (state) $("where").textContent = message.text;
  },
  refused(message) {
    isWaiting = false;
    $("empty").textContent = INVITATION;
    // What cannot be opened is not asked for again after a reconnection.
    if (state) showWhere();
    else opening = null;
    notice(message.text);
  },
  frame(header, pixels) {
    images.find((image) => image.shows(header.view)).load(header, pixels);
  },
  annotation(message) {
    // The answer to an earlier opening.
    if (message.asked !== wanted.patient || message.annotator !== wanted.annotator) return;
    opening = wanted;
    const isOther = state?.patient !== message.patient || state?.annotator !== message.annotator;
    const isProgress = isOther || state.finished !== message.finished || seenIn(state) !== seenIn(message);
    // A refusal is followed by the state, and is still to be read.
    if (isWaiting || isOther) notice("");
    state = message;
    isWaiting = false;
    show();
    if (isOther) begin();
    if (isProgress) cohort.load(state.annotator, state.patient);
  },
});

function begin() {
  $("empty").hidden = true;
  for (const id of ["work", "list", "side"]) $(id).hidden = false;
  document.body.classList.remove("idle");
  images.forEach((image) => image.viewer.reset());
  images[0].canvas.focus({ preventScroll: window.innerWidth > 760 });
}

function show() {
  const current = state.landmarks[state.current - 1];
  ask(null);
  $("work").dataset.revision = state.revision;
  $("current").textContent = `${current.id}. ${current.name}`;
  showWhere();
  showList();
  $("back").disabled = state.current === 1;
  $("next").disabled = state.current === state.landmarks.length;
  $("clear").disabled = current.state === "open";
  $("absent").setAttribute("aria-pressed", String(current.state === "na"));
  for (const kind of ["mip", "xray"]) $(kind).setAttribute("aria-pressed", String(state.images === kind));
  $("warnings").replaceChildren(...state.warnings.map((text) => element("p", text, "warning")));
  $("finish").disabled = state.finished;
  const saved = state.saved ? `Saved at ${state.saved.slice(11, 19)} UTC.` : "Nothing is placed yet.";
  $("finished").textContent = state.finished ? "Finished. A change opens it again." : saved;
  $("downloads").hidden = !state.landmarks.some((one) => one.state === "placed");
  for (const form of ["slicer", "paper"]) {
    $(form).href = `api/annotations/file?${new URLSearchParams({ patient: state.patient, annotator: state.annotator, form })}`;
  }
  images.forEach((image) => image.show(state));
}

function showWhere() {
  const current = state.landmarks[state.current - 1];
  const texts = { open: "not placed yet", na: "NA: not in the CT, or not recognisable" };
  $("where").textContent = texts[current.state] ?? `at ${current.at_mm.join(", ")} mm (LPS), ${DEPTHS[current.depth]}`;
}

const seenIn = (message) => message.landmarks.filter((one) => one.state !== "open").length;

function showList() {
  const seen = seenIn(state);
  $("seen").value = seen;
  $("seen-label").textContent = `${seen} of ${state.landmarks.length} are placed or NA`;
  const hadFocus = $("landmarks").contains(document.activeElement);
  $("landmarks").replaceChildren(...state.landmarks.map((one) => {
    const item = document.createElement("li");
    const button = element("button", "", "plain");
    button.type = "button";
    button.append(element("span", SIGNS[one.state], `sign ${one.state}`), ` ${one.id}. ${one.name}`);
    button.setAttribute("aria-label", `${one.id}. ${one.name}: ${one.state === "na" ? "NA" : one.state}`);
    if (one.id === state.current) button.setAttribute("aria-current", "step");
    button.addEventListener("click", () => send({ type: "go_to", landmark: one.id }));
    item.append(button);
    return item;
  }));
  if (hadFocus) $("landmarks").children[state.current - 1].firstChild.focus();
}

// One message at a time: a click is meant for the image that is shown.
function send(message) {
  if (!state || isWaiting || !connection.send(message)) return;
  isWaiting = true;
}

// Sends a change of the annotation that the page shows.
function change(message) {
  if (!state) return;
  send({ ...message, revision: state.revision, asked: state.asked, annotator: state.annotator });
}

function ask(id) {
  asks = id;
  for (const [button, texts] of Object.entries(ERASE)) $(button).textContent = texts[Number(button === id)];
}

// Asks once more while the landmark is placed. A key that is held down and a double-click are no second answer.
function erase(id, event) {
  if (!state || isWaiting) return;
  const isPlaced = state.landmarks[state.current - 1].state === "placed";
  if (isPlaced && (event.repeat || event.detail >= 2)) return;
  if (isPlaced && asks !== id) {
    ask(id);
    return;
  }
  ask(null);
  change({ type: id });
}

function open(patient) {
  const annotator = $("f-annotator").value;
  $("f-patient").value = patient;
  wanted = opening = { type: "open", patient, annotator, images: state?.images ?? "mip" };
  state = null;
  isWaiting = false;
  notice("");
  for (const id of ["work", "list", "side"]) $(id).hidden = true;
  $("empty").hidden = false;
  const address = { patient, annotator, ...(cohort.name ? { cohort: cohort.name } : {}) };
  history.replaceState(null, "", `annotate?${new URLSearchParams(address)}`);
  if (connection.isOpen) connection.send(opening);
}

function showImages(kind) {
  opening.images = kind;
  send({ type: "show", images: kind });
}

const actions = {
  back: () => send({ type: "back" }),
  next: () => send({ type: "next" }),
  absent: (event) => erase("absent", event),
  clear: (event) => erase("clear", event),
  finish: () => send({ type: "finish" }),
  mip: () => showImages("mip"),
  xray: () => showImages("xray"),
};
const press = (id, event) => !$(id).disabled && actions[id](event);
const KEYS = {
  ...display.keys,
  n: () => press("next"),
  b: () => press("back"),
  a: (event) => press("absent", event),
  c: (event) => press("clear", event),
  f: () => press("finish"),
  m: () => press(state.images === "mip" ? "xray" : "mip"),
};
images.forEach((image, index) => { KEYS[index + 1] = () => image.canvas.focus(); });

document.body.classList.add("idle");
ignoreHeldKeys();
for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);
$("open").addEventListener("submit", (event) => {
  event.preventDefault();
  open(event.target.elements.patient.value);
});
document.addEventListener("keydown", (event) => {
  if (state && isForPage(event) && !event.defaultPrevented) pressed(KEYS, event);
});

async function load() {
  const given = new URLSearchParams(location.search);
  $("f-annotator").value = given.get("annotator") ?? "";
  $("f-patient").value = given.get("patient") ?? "";
  cohort.name = given.get("cohort") ?? "";
  if (given.get("patient") && given.get("annotator")) open(given.get("patient"));
  else cohort.load("");
  const offers = await (await fetch("api/offers")).json();
  for (const patient of offers.patients) $("patients").append(new Option(patient.id, patient.id));
}

load().catch((error) => notice(`The patients could not be listed: ${error.message}`));
