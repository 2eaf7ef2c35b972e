// The form that starts an episode, the import of a CT, and addresses that start one.

import { element } from "./elements.js";

const NUMBERS = ["alpha_deg", "beta_deg", "kvp", "mas", "collimation"];
const INTEGERS = ["target", "image_size", "seed", "max_steps", "episode"];
const VIRTUAL = ["arms", "sex", "age", "weight_kg", "findings"];

export class Setup {
  constructor(start, notice) {
    this.form = document.getElementById("start");
    this.start = start;
    this.notice = notice;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      start(this.values());
    });
    document.getElementById("v-use").addEventListener("click", () => this.compose());
    document.getElementById("upload").addEventListener("submit", (event) => {
      event.preventDefault();
      this.upload(event.target);
    });
  }

  async load() {
    const answer = await fetch("api/offers");
    const offers = await answer.json();
    if (!answer.ok) throw new Error(offers.text);
    const field = (name) => this.form.elements[name];
    this.patients = document.getElementById("patients");
    offers.patients.forEach((patient) => this.offerPatient(patient.id, patient.landmarks));
    for (const target of offers.targets) {
      field("target").append(new Option(target.name, target.id));
      field("start").append(new Option(`over: ${target.name}`, target.id));
    }
    for (const name of offers.policies) {
      field("policy1").append(new Option(name, name));
      field("policy2").append(new Option(name, name));
    }
    for (const suite of offers.suites) field("suite").append(new Option(`${suite.name} (${suite.episodes} episodes)`, suite.name));
    for (const name of offers.localizers) document.getElementById("localizer").append(new Option(name, name));
    const phrases = document.getElementById("phrases");
    for (const text of SENTENCES) phrases.append(new Option(text, text));
    for (const target of offers.targets) {
      phrases.append(new Option(`This is the ${target.name}.`), new Option(`Show me the ${target.name} instead.`));
    }
  }

  offerPatient(name, landmarks) {
    const option = document.createElement("option");
    option.value = name;
    option.label = `${name}: ${landmarks} landmarks`;
    this.patients.append(option);
  }

  compose() {
    const value = (name) => document.getElementById(`v-${name}`).value.trim();
    const options = VIRTUAL.filter(value).map((name) => `${name}=${value(name)}`).join("&");
    this.form.elements.patient.value = `virtual:${value("seed") || 0}${options ? `?${options}` : ""}`;
  }

  values() {
    const data = new FormData(this.form);
    const message = { type: "start", policies: [data.get("policy1"), data.get("policy2")].filter(Boolean) };
    for (const name of ["patient", "start", "projection", "suite"]) message[name] = data.get(name);
    for (const name of NUMBERS) message[name] = Number(data.get(name));
    for (const name of INTEGERS) message[name] = Math.trunc(Number(data.get(name)));
    message.show_distance = data.get("show_distance") !== null;
    return message;
  }

  // ?patient=virtual:3&target=11&policy=oracle starts an episode at once.
  startFromAddress() {
    const given = new URLSearchParams(location.search);
    const policies = given.getAll("policy");
    if (policies[0]) given.set("policy1", policies[0]);
    if (policies[1]) given.set("policy2", policies[1]);
    given.delete("policy");
    const message = this.values();
    for (const [name, value] of given) {
      const field = this.form.elements[name];
      if (field && name !== "show_distance") field.value = value;
      if (NUMBERS.includes(name)) message[name] = Number(value);
      else if (INTEGERS.includes(name)) message[name] = Math.trunc(Number(value)) || 0;
      else if (["patient", "start", "projection", "suite"].includes(name)) message[name] = value;
    }
    if (policies.length) message.policies = policies;
    if (["patient", "suite", "policy1"].some((name) => given.has(name))) this.start(message);
  }

  async upload(form) {
    const status = document.getElementById("upload-status");
    const [file] = form.elements.file.files;
    const button = form.querySelector("button");
    button.disabled = true;
    status.textContent = "Sending and importing. A large CT takes a minute.";
    try {
      const answer = await fetch(`api/patients/${encodeURIComponent(form.elements.name.value)}`, {
        method: "POST", headers: { "Content-Type": "application/zip" }, body: file,
      });
      const imported = await answer.json();
      if (!answer.ok) throw new Error(imported.text);
      this.offerPatient(imported.patient, imported.landmarks);
      this.form.elements.patient.value = imported.patient;
      status.replaceChildren(element("p", `${imported.patient} is imported, with ${imported.landmarks} landmarks.`));
      imported.notes.forEach((note) => status.append(element("p", note, "note")));
    } catch (error) {
      status.textContent = "";
      this.notice(`Not imported: ${error.message}`);
    } finally {
      button.disabled = false;
    }
  }
}

const SENTENCES = [
  "Go a bit higher.", "Go a bit lower.", "A little more to the patient's left.", "A little more to the patient's right.",
  "It is far higher.", "It is far lower.", "Go much further to the patient's left.", "Go much further to the patient's right.",
  "That is not right.", "Yes, that is right.", "You are on the wrong side.", "Look again.", "Stop.",
];
