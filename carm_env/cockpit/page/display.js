// Window, level, polarity and zoom of the images of a page: sliders, buttons and keys.

import { DISPLAY } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const stepOf = (event) => (event.altKey ? 32 : event.shiftKey ? 8 : 2);

export class Display {
  // `viewers` returns all images, `active` the one that the keys zoom.
  constructor(viewers, active) {
    this.viewers = viewers;
    this.adjust = this.adjust.bind(this);
    $("window").addEventListener("input", (event) => { DISPLAY.window = Number(event.target.value); this.redraw(); });
    $("level").addEventListener("input", (event) => { DISPLAY.level = Number(event.target.value); this.redraw(); });
    $("polarity").addEventListener("click", () => this.toggle("inverted"));
    $("cross").addEventListener("click", () => this.toggle("cross"));
    $("reset-view").addEventListener("click", () => this.reset());
    const zoom = (factor) => active()?.zoomBy(factor);
    this.keys = {
      x: () => this.toggle("cross"),
      p: () => this.toggle("inverted"),
      0: () => this.reset(),
      "+": () => zoom(1.25),
      "=": () => zoom(1.25),
      "-": () => zoom(0.8),
      i: (event) => this.adjust(0, stepOf(event)),
      k: (event) => this.adjust(0, -stepOf(event)),
      j: (event) => this.adjust(-stepOf(event), 0),
      l: (event) => this.adjust(stepOf(event), 0),
    };
  }

  redraw() {
    this.viewers().forEach((viewer) => { viewer.fill(); viewer.draw(); });
    $("window").value = DISPLAY.window;
    $("level").value = DISPLAY.level;
    $("polarity").setAttribute("aria-pressed", String(DISPLAY.inverted));
    $("cross").setAttribute("aria-pressed", String(DISPLAY.cross));
  }

  adjust(window_, level) {
    DISPLAY.window = Math.min(512, Math.max(8, DISPLAY.window + window_));
    DISPLAY.level = Math.min(255, Math.max(0, DISPLAY.level + level));
    this.redraw();
  }

  toggle(name) {
    DISPLAY[name] = !DISPLAY[name];
    this.redraw();
  }

  reset() {
    Object.assign(DISPLAY, { window: 256, level: 128, inverted: false });
    this.viewers().forEach((viewer) => viewer.reset());
    this.redraw();
  }
}

// Whether keys of the page are meant: not while a person writes or chooses.
export function isForPage(event) {
  return !event.target.matches("input, select, textarea") && !event.metaKey;
}

// Passes a key without Ctrl to the function of its name; returns whether there is one.
export function pressed(keys, event) {
  const action = !event.ctrlKey && keys[event.key.toLowerCase()];
  if (!action) return false;
  event.preventDefault();
  action(event);
  return true;
}
