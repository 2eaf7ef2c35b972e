// Keys that are held down, on every page where a button cannot be undone.

// A key that is held down presses a button once: Enter would otherwise press it again and again.
export function ignoreHeldKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.repeat && (event.key === "Enter" || event.key === " ") && event.target.matches("button")) {
      event.preventDefault();
    }
  }, { capture: true });
}
