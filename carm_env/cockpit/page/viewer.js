// An image on a canvas: window, level, polarity, zoom, cross-hair, markers and regions.

const MARK = "#ffc400";
export const DISPLAY = { window: 256, level: 128, inverted: false, cross: true, regions: true };

const CLICK_PX = 4;

export class Viewer {
  // `changed` is told of a drag. Options: `sides` are the letters at the left and right edge, `cross` says whether the
  // middle is marked, `paint` draws on the image, and `clicked` is told the pixel of a click.
  constructor(canvas, changed, { sides = ["R", "L"], cross = true, paint = null, clicked = null } = {}) {
    this.canvas = canvas;
    this.changed = changed;
    Object.assign(this, { sides, cross, paint, clicked });
    this.pixel = [1, 1];
    this.context = canvas.getContext("2d");
    this.buffer = document.createElement("canvas");
    this.zoom = 1;
    this.centre = [0.5, 0.5];
    this.pixels = null;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // Takes an image; `draw` shows it. `pixel` is the width and height of a pixel.
  load(pixels, width, height, pixel = [1, 1]) {
    this.pixels = pixels;
    this.pixel = pixel;
    this.buffer.width = width;
    this.buffer.height = height;
    this.fill();
  }

  // Grey values through window and level.
  fill() {
    if (!this.pixels) return;
    const table = new Uint32Array(256);
    const low = DISPLAY.level - DISPLAY.window / 2;
    for (let grey = 0; grey < 256; grey += 1) {
      let value = Math.round(Math.min(255, Math.max(0, ((grey - low) / DISPLAY.window) * 255)));
      if (DISPLAY.inverted) value = 255 - value;
      table[grey] = 0xff000000 | (value << 16) | (value << 8) | value;
    }
    const context = this.buffer.getContext("2d");
    const image = context.createImageData(this.buffer.width, this.buffer.height);
    const words = new Uint32Array(image.data.buffer);
    for (let i = 0; i < words.length; i += 1) words[i] = table[this.pixels[i]];
    context.putImageData(image, 0, 0);
  }

  // Pixels of the canvas for one pixel of the image, along its width and its height.
  get scales() {
    const sizes = [this.buffer.width * this.pixel[0], this.buffer.height * this.pixel[1]];
    const fit = Math.min(this.canvas.width / sizes[0], this.canvas.height / sizes[1]);
    return this.pixel.map((side) => fit * side * this.zoom);
  }

  toCanvas(u, v) {
    const { width, height } = this.buffer;
    const [across, down] = this.scales;
    return [
      this.canvas.width / 2 + (u - this.centre[0] * width) * across,
      this.canvas.height / 2 + (v - this.centre[1] * height) * down,
    ];
  }

  // The inverse, for a pointer; (0, 0) is the outer corner of the first pixel.
  toImage(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) * (this.canvas.width / box.width);
    const y = (event.clientY - box.top) * (this.canvas.height / box.height);
    const [across, down] = this.scales;
    return [
      this.centre[0] * this.buffer.width + (x - this.canvas.width / 2) / across,
      this.centre[1] * this.buffer.height + (y - this.canvas.height / 2) / down,
    ];
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(this.canvas.clientWidth * ratio), Math.round(this.canvas.clientHeight * ratio)];
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const context = this.context;
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    if (!this.pixels) return;
    const [across, down] = this.scales;
    context.imageSmoothingEnabled = across < 2;
    const [x, y] = this.toCanvas(0, 0);
    context.drawImage(this.buffer, x, y, this.buffer.width * across, this.buffer.height * down);
    if (DISPLAY.regions) this.drawRegions(ratio);
    if (this.cross && DISPLAY.cross) this.drawCross(ratio);
    this.paint?.(context, ratio);
    this.drawMarkers(ratio);
  }

  drawCross(ratio) {
    const [x, y] = this.toCanvas(this.buffer.width / 2, this.buffer.height / 2);
    const context = this.context;
    context.strokeStyle = MARK;
    context.lineWidth = 1.5 * ratio;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 9 * ratio, y + dy * 9 * ratio);
      context.lineTo(x + dx * 30 * ratio, y + dy * 30 * ratio);
    }
    context.stroke();
  }

  drawMarkers(ratio) {
    const context = this.context;
    const { width, height } = this.canvas;
    context.font = `600 ${15 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "top";
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "#000";
    context.fillStyle = MARK;
    for (const [text, x, align] of [[this.sides[0], 10 * ratio, "left"], [this.sides[1], width - 10 * ratio, "right"]]) {
      context.textAlign = align;
      context.strokeText(text, x, 8 * ratio);
      context.fillText(text, x, 8 * ratio);
    }
    context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
    context.textAlign = "left";
    context.fillStyle = "#d7e1e8";
    context.strokeText("RESEARCH ONLY", 10 * ratio, height - 20 * ratio);
    context.fillText("RESEARCH ONLY", 10 * ratio, height - 20 * ratio);
  }

  drawRegions(ratio) {
    const state = this.state;
    if (!state?.overlay) return;
    const context = this.context;
    const perMm = this.buffer.width / state.field_of_view_mm;
    const [across, down] = this.scales;
    context.font = `${11 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "left";
    const best = [...state.overlay].sort((a, b) => (b.probability ?? 0) - (a.probability ?? 0)).slice(0, 3);
    for (const row of state.overlay) {
      if (!row.at_mm) continue;
      const u = this.buffer.width / 2 + row.at_mm[0] * perMm;
      const v = this.buffer.height / 2 - row.at_mm[1] * perMm;
      const isTarget = row.id === state.target.id;
      const isLikely = best.includes(row) && row.probability > 0.01;
      const inside = u > 0 && v > 0 && u < this.buffer.width && v < this.buffer.height;
      if (!isTarget && !isLikely && !inside) continue;
      const [x, y] = this.toCanvas(u, v);
      context.strokeStyle = context.fillStyle = isTarget ? MARK : isLikely ? "#5fc7ba" : "#9fb0bb";
      context.lineWidth = (isTarget || isLikely ? 1.8 : 1) * ratio;
      context.beginPath();
      if (row.region_mm) {
        context.ellipse(x, y, row.region_mm[0] * perMm * across, row.region_mm[1] * perMm * down, 0, 0, 7);
      } else {
        context.arc(x, y, 5 * ratio, 0, 7);
      }
      context.stroke();
      const share = row.probability === undefined ? "" : ` ${Math.round(100 * row.probability)} %`;
      if (inside) this.label(`${row.name}${share}`, x + 6 * ratio, y, ratio);
    }
  }

  label(text, x, y, ratio) {
    const context = this.context;
    const left = Math.min(x, this.canvas.width - context.measureText(text).width - 4 * ratio);
    const colour = context.fillStyle;
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "#000";
    context.strokeText(text, left, y);
    context.fillStyle = colour;
    context.fillText(text, left, y);
  }

  zoomBy(factor, at = null) {
    const before = at ? this.toImage(at) : null;
    this.zoom = Math.min(8, Math.max(1, this.zoom * factor));
    if (before && this.pixels) {
      const after = this.toImage(at);
      this.centre[0] += (before[0] - after[0]) / this.buffer.width;
      this.centre[1] += (before[1] - after[1]) / this.buffer.height;
    }
    this.keepInside();
    this.draw();
  }

  keepInside() {
    const half = 0.5 / this.zoom;
    this.centre = this.centre.map((value) => Math.min(1 - half, Math.max(half, value)));
  }

  reset() {
    this.zoom = 1;
    this.centre = [0.5, 0.5];
    this.draw();
  }

  listen() {
    let start = null;
    let last = null;
    let isDrag = false;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      start = last = [event.clientX, event.clientY];
      isDrag = false;
      if (event.pointerType === "mouse") this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      isDrag ||= Math.hypot(event.clientX - start[0], event.clientY - start[1]) > CLICK_PX;
      if (!isDrag) return;
      const [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
      last = [event.clientX, event.clientY];
      if (event.shiftKey) {
        const ratio = this.canvas.width / this.canvas.clientWidth;
        const [across, down] = this.scales;
        this.centre[0] -= (dx * ratio) / (across * this.buffer.width);
        this.centre[1] -= (dy * ratio) / (down * this.buffer.height);
        this.keepInside();
        this.draw();
      } else {
        this.changed(dx, event.pointerType === "mouse" ? dy : 0);
      }
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (last && !isDrag && this.pixels) this.clicked?.(this.toImage(event));
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      this.canvas.addEventListener(end, () => { last = null; });
    }
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2, event);
    }, { passive: false });
  }
}
