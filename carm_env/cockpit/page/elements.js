// Elements of a page, made of text: nothing is ever read as HTML.

export function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Fills a list of readouts with terms and values; returns the elements of the values by term.
export function fillFacts(list, facts) {
  const found = {};
  list.replaceChildren(...facts.map(([term, value]) => {
    const row = document.createElement("div");
    found[term] = element("dd", String(value));
    row.append(element("dt", term), found[term]);
    return row;
  }));
  return found;
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// What a real C-arm reports of an episode.
export function driveFacts(state, seconds) {
  return [
    ["exposures", state.exposures],
    ["dose, mGy", state.dose_mgy.toFixed(3)],
    ["DAP, mGy·cm²", state.dap_mgy_cm2.toFixed(1)],
    ["decisions", `${state.steps} of ${state.max_steps}`],
    ["time", clock(seconds)],
  ];
}

// The sign on the X-ray: which image is shown, and what is special about it.
export function holdText(state) {
  const remark = state.quality !== "ok" ? ` · ${state.quality.replace("_", " ")}` : state.clipped ? " · end of travel" : "";
  return `LAST IMAGE HOLD${remark}`;
}
