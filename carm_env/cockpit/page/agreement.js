// The page of the disagreement of two annotators, in mm per landmark.

import { element } from "./elements.js";
import { notice } from "./notices.js";

const $ = (id) => document.getElementById(id);
const millimetres = (value) => (value === null ? "–" : value.toFixed(1));

async function ask(path) {
  const answer = await fetch(path);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.text ?? "Both names are needed.");
  return found;
}

async function compare(first, second) {
  notice("");
  $("result").hidden = true;
  try {
    const address = new URLSearchParams({ first, second });
    show(await ask(`api/annotations/agreement?${address}`));
    history.replaceState(null, "", `agreement?${address}`);
  } catch (error) {
    notice(error.message);
  }
}

function show(found) {
  $("sum").textContent = `${found.first} and ${found.second}: ${found.patients.length} ${found.patients.length === 1 ? "CT" : "CTs"} in common`;
  $("only-first").textContent = `only ${found.first}`;
  $("only-second").textContent = `only ${found.second}`;
  $("table").tBodies[0].replaceChildren(...Object.entries(found.landmarks).map(([name, row]) => {
    const line = document.createElement("tr");
    const head = element("th", "");
    head.scope = "row";
    const button = element("button", name, "plain");
    button.type = "button";
    button.addEventListener("click", () => showDetail(name, row, found));
    head.append(button);
    const values = [row.patients, millimetres(row.mean_mm), millimetres(row.median_mm), millimetres(row.max_mm),
      millimetres(row.frontal_mean_mm), row.only_first.length, row.only_second.length];
    line.append(head, ...values.map((value) => element("td", String(value))));
    return line;
  }));
  $("detail").hidden = true;
  $("result").hidden = false;
}

function showDetail(name, row, found) {
  const lines = Object.entries(row.distances_mm).map(([patient, value]) => `${patient}: ${value.toFixed(1)} mm, frontal ${row.frontal_mm[patient].toFixed(1)} mm`);
  row.only_first.forEach((patient) => lines.push(`${patient}: ${found.first} placed it, ${found.second} marked it as NA`));
  row.only_second.forEach((patient) => lines.push(`${patient}: ${found.second} placed it, ${found.first} marked it as NA`));
  if (!lines.length) lines.push("There is no common CT in which one placed it and the other placed it or marked it as NA.");
  $("detail").querySelector("h3").textContent = name;
  $("detail").querySelector("ul").replaceChildren(...lines.map((line) => element("li", line)));
  $("detail").hidden = false;
}

$("compare").addEventListener("submit", (event) => {
  event.preventDefault();
  compare(event.target.elements.first.value, event.target.elements.second.value);
});

async function load() {
  const { annotators } = await ask("api/annotations/progress");
  $("annotators").replaceChildren(...annotators.map((name) => new Option(name, name)));
  const given = new URLSearchParams(location.search);
  const names = ["first", "second"].map((key, index) => given.get(key) ?? annotators[index] ?? "");
  [$("f-first").value, $("f-second").value] = names;
  if (given.has("first") && given.has("second")) await compare(...names);
  else if (annotators.length < 2) notice("Fewer than two people have annotated so far.");
}

load().catch((error) => notice(error.message));
