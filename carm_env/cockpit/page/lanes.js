// The cards of the C-arms: X-ray, readouts, what the policy decided, and what waits for the person.

import { clock, driveFacts, element, fillFacts, holdText } from "./elements.js";
import { Viewer } from "./viewer.js";

export class Lane {
  constructor(number, send, adjust, choose) {
    this.number = number;
    this.root = document.getElementById("lane-template").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.viewer = new Viewer(this.find("canvas"), adjust);
    this.root.addEventListener("pointerdown", () => choose(number));
    this.find(".accept").addEventListener("click", () => send({ type: "accept", lane: number }));
    this.find(".object").addEventListener("click", () => {
      if (this.state?.held === "aligned") send({ type: "say", text: "No, that is wrong.", lane: number });
      else document.querySelector("#say input").focus();
    });
    this.startedAt = performance.now();
  }

  update(state, alone) {
    this.state = state;
    this.startedAt = performance.now() - 1000 * state.age_s;
    this.viewer.state = state;
    const name = state.policy || "You";
    this.root.setAttribute("aria-label", `C-arm ${this.number + 1}: ${name}`);
    this.find("h2").textContent = alone ? name : `${this.number + 1}: ${name}`;
    const who = this.find(".who");
    who.textContent = state.driver === "person" ? "you drive" : state.deciding ? "policy decides …" : "policy drives";
    who.className = `who chip ${state.driver}`;
    this.find(".target").textContent = `Target: ${state.target.name}`;
    this.showFacts(state);
    this.showHeld(state);
    this.showDecision(state);
    const outcome = this.find(".outcome");
    outcome.hidden = !state.outcome;
    if (state.outcome) {
      const { name: ended, error } = state.outcome;
      const texts = {
        success: "Success: aligned within the tolerance.",
        misaligned: "Misaligned: the target is outside the tolerance.",
        timeout: "The episode ended after the last decision without a declaration.",
        crash: `The policy crashed: ${error}`,
      };
      outcome.textContent = texts[ended] || ended;
      outcome.classList.toggle("success", ended === "success");
    }
    this.find("canvas").setAttribute("aria-label", `X-ray ${state.exposures}, target ${state.target.name}${state.quality === "ok" ? "" : `, view: ${state.quality}`}`);
  }

  showFacts(state) {
    const facts = [
      ...driveFacts(state, this.seconds),
      ["angles", `${angle(state.angles[0], "LAO", "RAO")} · ${angle(state.angles[1], "CRAN", "CAUD")} · ${state.angles[2]}`],
      ["patient", state.patient],
    ];
    if (state.distance_mm !== undefined) facts.push(["true distance", `${Math.round(state.distance_mm)} mm`]);
    this.clock = fillFacts(this.find(".facts"), facts).time;
    this.find(".lamp").textContent = holdText(state);
    this.find(".lamp").classList.remove("on");
  }

  get seconds() { return (performance.now() - this.startedAt) / 1000; }

  tick() {
    if (this.clock && !this.state.outcome) this.clock.textContent = clock(this.seconds);
  }

  exposing() {
    this.find(".lamp").textContent = "X-RAY ON";
    this.find(".lamp").classList.add("on");
  }

  showHeld(state) {
    const held = this.find(".held");
    held.hidden = !state.held;
    if (!state.held) return;
    const texts = {
      aligned: ["The policy declares the view aligned.", "Accept: end the episode", "No, that is wrong"],
      question: [`The policy asks: ${state.decision?.question}`, "Drive myself", "Answer"],
      hand_back: ["The policy hands the C-arm back to you.", "Drive myself", "Say something"],
    };
    const [sentence, accept, object] = texts[state.held];
    held.querySelector("p").textContent = sentence;
    held.querySelector(".accept").textContent = accept;
    held.querySelector(".object").textContent = object;
  }

  showDecision(state) {
    const box = this.find(".decision");
    box.replaceChildren();
    const said = state.decision;
    if (!said) return;
    const add = (name, value) => {
      const line = element("p", "");
      line.append(element("b", `${name}: `), value);
      box.append(line);
    };
    add("decision", said.invalid ? "an answer that cannot be read" : said.abstain ? "hands back" : describe(said.move));
    if (said.closest.length) add("closest landmarks", said.closest.join(", "));
    if (said.confidence !== null) {
      const meter = document.createElement("meter");
      meter.value = said.confidence;
      meter.setAttribute("aria-label", "confidence");
      const value = document.createElement("span");
      value.append(meter, ` ${Math.round(100 * said.confidence)} %`);
      add("confidence", value);
    }
    if (said.rationale) add("rationale", said.rationale);
    if (said.question) add("question", said.question);
    add("time", `${said.latency_s.toFixed(2)} s`);
  }
}

function angle(value, negative, positive) {
  return `${Math.abs(value)}° ${value < 0 ? negative : value > 0 ? positive : ""}`.trim();
}

function describe(move) {
  if (move === "CENTER NONE / CENTER NONE") return "aligned";
  return move.toLowerCase().replace(/center none( \/ )?/, "").replace(/ \/ $/, "").replace(" / ", ", ");
}
