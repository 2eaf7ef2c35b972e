// The line for messages, and the sign of the connection, which all pages have.

import { element } from "./elements.js";

const $ = (id) => document.getElementById(id);

export function notice(text) {
  $("notice-text").textContent = text;
  $("notice").hidden = !text;
}

export function showConnected(text = "connected") {
  $("connection").textContent = text;
  $("connection").className = "chip on";
}

export function showLost(text = "connection lost, trying again") {
  $("connection").textContent = text;
  $("connection").className = "chip off";
}

// Another tab has taken the place of this one, which can take it back.
export function showTaken(text, takeBack) {
  showLost("in another tab");
  notice(`${text} `);
  const button = element("button", "Use it here");
  button.type = "button";
  button.addEventListener("click", () => { notice(""); takeBack(); });
  $("notice-text").append(button);
}

$("notice-close").addEventListener("click", () => notice(""));
