// The pad of moves: seven columns from the patient's right to the left, seven rows from up to down.

const EXTENTS = ["", "small", "moderate", "large"];
const ARROWS = { "0,1": "↑", "0,-1": "↓", "1,0": "→", "-1,0": "←", "1,1": "↗", "1,-1": "↘", "-1,1": "↖", "-1,-1": "↙" };
export const ALIGNED = 24;
export const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// The extent that the modifiers of a key ask for.
export function extent(event) { return event.ctrlKey ? 3 : event.shiftKey ? 2 : 1; }

// x is to the right of the image, which is the patient's left; y is up.
export function action(x, y) { return 7 * (x + 3) + y + 3; }

export function fillPad(pad, move) {
  const buttons = [];
  for (let y = 3; y >= -3; y -= 1) {
    for (let x = -3; x <= 3; x += 1) {
      const button = document.createElement("button");
      button.type = "button";
      const parts = [];
      if (x) parts.push(`${x > 0 ? "right" : "left"} ${EXTENTS[Math.abs(x)]}`);
      if (y) parts.push(`${y > 0 ? "up" : "down"} ${EXTENTS[Math.abs(y)]}`);
      const isCentre = !x && !y;
      button.textContent = isCentre ? "⊕" : ARROWS[`${Math.sign(x)},${Math.sign(y)}`];
      button.setAttribute("aria-label", isCentre ? "aligned" : parts.join(", "));
      button.title = button.getAttribute("aria-label");
      if (isCentre) button.className = "centre";
      else button.tabIndex = Math.abs(x) + Math.abs(y) === 1 ? 0 : -1;
      button.dataset.action = action(x, y);
      button.addEventListener("click", () => move(Number(button.dataset.action)));
      pad.append(button);
      buttons.push(button);
    }
  }
  return buttons;
}
