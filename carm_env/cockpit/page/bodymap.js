// The C-arm's place on a map of the body: the patient's outline, the workspace, the path and the field of view.

const COLOURS = ["#5fc7ba", "#ffc400"];

function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

export class BodyMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.paths = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  begin(body) {
    this.body = body;
    this.paths = [];
    this.states = [];
    const bytes = Uint8Array.from(atob(body.silhouette), (letter) => letter.charCodeAt(0));
    const perRow = Math.ceil(body.columns / 8);
    this.outline = new OffscreenCanvas(body.columns, body.rows);
    const context = this.outline.getContext("2d");
    const image = context.createImageData(body.columns, body.rows);
    for (let row = 0; row < body.rows; row += 1) {
      for (let column = 0; column < body.columns; column += 1) {
        const isBody = (bytes[row * perRow + (column >> 3)] >> (7 - (column & 7))) & 1;
        image.data.set(isBody ? [70, 88, 100, 255] : [0, 0, 0, 0], 4 * (row * body.columns + column));
      }
    }
    context.putImageData(image, 0, 0);
  }

  update(lane, state) {
    this.states[lane] = state;
    const path = (this.paths[lane] ??= []);
    const aim = [state.aim_mm[0], state.aim_mm[2]];
    const last = path[path.length - 1];
    if (!last || last[0] !== aim[0] || last[1] !== aim[1]) path.push(aim);
    this.draw();
  }

  draw() {
    if (!this.body) return;
    const { context, width, height, ratio } = prepare(this.canvas);
    const { step_mm: step, top_left_mm: corner, columns, rows, workspace_mm: [low, high] } = this.body;
    const sideMm = [columns * step[0], rows * step[1]];
    const scale = Math.min(width / (sideMm[0] + 80), height / (sideMm[1] + 40));
    const left = (width - sideMm[0] * scale) / 2;
    const top = (height - sideMm[1] * scale) / 2;
    const at = ([x, z]) => [left + (x - corner[0] + step[0] / 2) * scale, top + (corner[1] + step[1] / 2 - z) * scale];
    context.imageSmoothingEnabled = true;
    context.drawImage(this.outline, left, top, sideMm[0] * scale, sideMm[1] * scale);
    const [a, b] = [at([low[0], high[1]]), at([high[0], low[1]])];
    context.setLineDash([4 * ratio, 4 * ratio]);
    context.strokeStyle = "#61727e";
    context.lineWidth = ratio;
    context.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
    context.setLineDash([]);
    context.fillStyle = "#a9b6c0";
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText("R", 6 * ratio, height / 2);
    context.textAlign = "right";
    context.fillText("L", width - 6 * ratio, height / 2);
    this.states.forEach((state, lane) => {
      context.strokeStyle = context.fillStyle = COLOURS[lane % COLOURS.length];
      context.lineWidth = 1.5 * ratio;
      context.beginPath();
      this.paths[lane].forEach((point, index) => {
        const [x, y] = at(point);
        if (index) context.lineTo(x, y); else context.moveTo(x, y);
      });
      context.stroke();
      const [x, y] = at(this.paths[lane][this.paths[lane].length - 1]);
      const half = (state.field_of_view_mm / 2) * scale;
      context.lineWidth = 2 * ratio;
      context.strokeRect(x - half, y - half, 2 * half, 2 * half);
      context.beginPath();
      context.arc(x, y, 3 * ratio, 0, 7);
      context.fill();
    });
  }
}

export { prepare, COLOURS };
