// The progress of a person through a cohort of CTs.

import { element } from "./elements.js";
import { notice } from "./notices.js";

const $ = (id) => document.getElementById(id);

export class Cohort {
  // `open` opens the CT of a name.
  constructor(open) {
    this.open = open;
    this.annotator = "";
    this.patient = "";
    $("next-ct").addEventListener("click", () => open(this.next));
    $("f-cohort").addEventListener("change", () => this.load(this.annotator, this.patient));
  }

  get name() { return $("f-cohort").value.trim(); }

  set name(value) { $("f-cohort").value = value; }

  async load(annotator, patient = "") {
    Object.assign(this, { annotator, patient });
    try {
      const answer = await fetch(`api/annotations/progress?${new URLSearchParams({ annotator, cohort: this.name })}`);
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.text);
      this.show(found);
    } catch (error) {
      notice(`The progress could not be loaded: ${error.message}`);
    }
  }

  show(found) {
    this.next = found.next;
    $("annotators").replaceChildren(...found.annotators.map((name) => new Option(name, name)));
    $("cohort-sum").textContent = this.annotator
      ? `${this.annotator}: ${found.finished} of ${found.patients} CTs finished, ${found.seen} of ${found.landmarks} landmarks.`
      : `${found.patients} CTs.`;
    if (!this.annotator && found.next && !$("f-patient").value) $("f-patient").value = found.next;
    $("next-ct").hidden = !this.annotator || !found.next || found.next === this.patient;
    $("next-ct").textContent = `Open the next CT: ${found.next}`;
    $("progress").hidden = !found.rows.length;
    $("progress").tBodies[0].replaceChildren(...found.rows.map((row) => {
      const line = document.createElement("tr");
      const head = element("th", "");
      head.scope = "row";
      const button = element("button", row.patient, "plain");
      button.type = "button";
      if (row.patient === this.patient) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => this.open(row.patient));
      head.append(button);
      line.append(head, ...[row.status, row.placed, row.na].map((value) => element("td", String(value))));
      return line;
    }));
  }
}
