"use strict";
(() => {
const all = (selector, where = document) => [...where.querySelectorAll(selector)];
const status = document.getElementById("status");
document.documentElement.classList.add("js");

// Tabs, with the keys of the ARIA pattern. The address keeps the tab.
const tabs = all("[role=tab]");
const panels = tabs.map(tab => document.getElementById(tab.getAttribute("aria-controls")));
function choose(number, focus) {
  tabs.forEach((tab, other) => {
    tab.setAttribute("aria-selected", String(other === number));
    tab.tabIndex = other === number ? 0 : -1;
    panels[other].hidden = other !== number;
  });
  if (focus) tabs[number].focus();
}
panels.forEach(panel => { panel.setAttribute("role", "tabpanel"); panel.tabIndex = 0; });
tabs.forEach((tab, number) => {
  tab.addEventListener("click", () => {
    choose(number);
    try { history.replaceState(null, "", "#" + panels[number].id); } catch { /* a page inside another one */ }
  });
  tab.addEventListener("keydown", event => {
    const last = tabs.length - 1;
    const to = {ArrowRight: number === last ? 0 : number + 1, ArrowLeft: number === 0 ? last : number - 1, Home: 0, End: last}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to, true);
  });
});
if (tabs.length) choose(Math.max(0, panels.findIndex(panel => "#" + panel.id === location.hash)));

// Sorting. The first click sorts numbers from the largest on and texts from A on.
const valueOf = cell => cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim().toLowerCase();
all("table.sortable").forEach(table => {
  const heads = all("thead th", table);
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    const falling = before === "none" ? head.classList.contains("n") : before === "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", other === head ? (falling ? "descending" : "ascending") : "none"));
    const rows = all("tbody tr", table).map(row => [valueOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (falling ? -1 : 1));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    status.textContent = `Sorted by ${head.textContent}, ${falling ? "descending" : "ascending"}.`;
  }));
});

// The policies of the figures.
all(".legend").forEach(legend => all(".chip", legend).forEach(chip => chip.addEventListener("click", () => {
  const shown = chip.getAttribute("aria-pressed") !== "true";
  chip.setAttribute("aria-pressed", String(shown));
  const mark = ".p" + chip.dataset.p;
  all(`.figures ${mark}, .maps ${mark}`, legend.closest(".panel")).forEach(part => part.classList.toggle("off", !shown));
})));

// Everything is printed.
let closed = [];
addEventListener("beforeprint", () => { closed = all("details:not([open])"); closed.forEach(part => { part.open = true; }); });
addEventListener("afterprint", () => closed.forEach(part => { part.open = false; }));

// Stepping through an episode. Texts of results become text nodes, never HTML.
const common = JSON.parse(document.getElementById("common").textContent);
function draw(tag, attributes) {
  const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
  return part;
}
function pointsOf(path) {
  let x = 0, y = 0;
  return [...path.getAttribute("d").matchAll(/(-?\d+) (-?\d+)/g)].map(([, a, b]) => [x += Number(a), y += Number(b)]);
}
const wayOf = points => "M" + points.map(point => point.join(" ")).join("L");
const capital = text => text[0].toUpperCase() + text.slice(1);

all(".stepper").forEach(stepper => {
  const {names, episodes} = JSON.parse(document.getElementById(stepper.dataset.episodes).textContent);
  const panel = stepper.closest(".panel");
  const part = name => stepper.querySelector(name);
  const [episodeList, policyList, drawn, back, next] = ["select.episode", "select.policy", ".drawn", ".back", ".next"].map(part);
  let step = 0;
  stepper.hidden = false;
  episodes.forEach((episode, number) => {
    const solved = episode.runs.filter(run => common.outcomes[run[1]] === "success").length;
    const text = `${episode.n}: ${common.landmarks[episode.target]}, ${episode.mm} mm away, ${episode.patient}, solved by ${solved} of ${episode.runs.length}`;
    episodeList.add(new Option(text, number));
  });
  const pathOf = (run, number) => panel.querySelector(`.maps svg[data-p="${run[0]}"] [data-e="${number}"]`);
  function fillPolicies() {
    policyList.replaceChildren(...episodes[episodeList.value].runs.map((run, place) => new Option(names[run[0]], place)));
    const same = [...policyList.options].findIndex(option => option.text === stepper.dataset.policy);
    policyList.selectedIndex = Math.max(0, same);
  }
  function show() {
    const number = Number(episodeList.value), episode = episodes[number], run = episode.runs[policyList.value];
    const [policy, , finalMm, , , moves, address, said] = run;
    const outcome = common.outcomes[run[1]];
    stepper.dataset.policy = names[policy];
    const places = pointsOf(pathOf(run, number));
    step = Math.min(step, moves.length);
    const colour = " c" + policy % 8;
    const [x, y] = places[step], [tx, ty] = [episode.at[0], episode.at[1]], half = episode.view / 2;
    drawn.replaceChildren(
      draw("circle", {class: "goal", cx: tx, cy: ty, r: 25}),
      draw("path", {class: "cross", d: `M${tx - 12} ${ty}h24M${tx} ${ty - 12}v24`}),
      ...episode.runs.filter(other => other !== run).map(other =>
        draw("path", {class: "ghost c" + other[0] % 8, d: wayOf(pointsOf(pathOf(other, number)))})),
      draw("rect", {class: "field" + colour, x: x - half, y: y - half, width: 2 * half, height: 2 * half}),
      draw("path", {class: "trail" + colour, d: wayOf(places.slice(0, step + 1))}),
      draw("circle", {class: "spot" + colour, cx: x, cy: y, r: 13}),
    );
    const away = Math.round(Math.hypot(x - tx, y - ty)), goal = common.landmarks[episode.target];
    const where = step === 0 ? `Start, ${episode.mm} mm from the target (${goal}).`
      : step < moves.length ? `Step ${step} of ${moves.length}: ${common.moves[moves[step - 1]]}; now about ${away} mm from the target.`
      : `Step ${step} of ${moves.length}: ${common.moves[moves[step - 1]]}. ${capital(outcome)}, ${finalMm} mm from the target.`;
    part(".now").textContent = where;
    const words = part(".words"), text = said?.[step] ?? "";
    words.hidden = !text;
    words.textContent = text;
    part(".more").hidden = !address;
    if (address) part(".more a").setAttribute("href", address);
    back.disabled = step === 0;
    next.disabled = step >= moves.length;
    part(".runs tbody").replaceChildren(...episode.runs.map(other => {
      const row = document.createElement("tr");
      row.classList.toggle("chosen", other === run);
      const ended = common.outcomes[other[1]];
      [names[other[0]], ended, other[3], other[2], other[4]].forEach((value, column) => {
        const cell = document.createElement(column ? "td" : "th");
        if (column === 0) cell.scope = "row";
        if (column === 1) cell.className = "outcome-" + ended;
        if (column > 1) cell.className = "n";
        cell.textContent = value;
        row.append(cell);
      });
      return row;
    }));
  }
  const begin = () => { step = 0; show(); };
  episodeList.addEventListener("change", () => { fillPolicies(); begin(); });
  policyList.addEventListener("change", begin);
  back.addEventListener("click", () => { step--; show(); });
  next.addEventListener("click", () => { step++; show(); });
  fillPolicies();
  begin();
});
})();
