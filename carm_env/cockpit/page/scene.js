// A scene of arm, table, patient and beam, drawn with plain lines and surfaces: no WebGL is needed.

import { prepare, COLOURS } from "./bodymap.js";

const TILT = 0.42;
const RING_POINTS = 24;

export class Scene {
  constructor(canvas) {
    this.canvas = canvas;
    this.turn = 0.7;
    this.states = [];
    let last = null;
    canvas.addEventListener("pointerdown", (event) => { last = event.clientX; });
    canvas.addEventListener("pointermove", (event) => {
      if (last === null) return;
      this.rotate((event.clientX - last) / 120);
      last = event.clientX;
    });
    for (const end of ["pointerup", "pointerleave", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  begin(body) {
    this.body = body;
    this.states = [];
    const rings = body.rings;
    const heights = rings.map((ring) => ring[0]);
    this.middle = [
      (Math.min(...rings.map((ring) => ring[1])) + Math.max(...rings.map((ring) => ring[2]))) / 2,
      body.mid_depth_mm,
      (Math.min(...heights) + Math.max(...heights)) / 2,
    ];
    this.back = Math.max(...rings.map((ring) => ring[4]));
    this.length = Math.max(...heights) - Math.min(...heights);
  }

  update(lane, state) {
    this.states[lane] = state;
    this.draw();
  }

  rotate(angle) {
    this.turn += angle;
    this.draw();
  }

  // The patient lies on the back: z runs to the right of the scene, anterior is up.
  project(point) {
    const [x, y, z] = point.map((value, axis) => value - this.middle[axis]);
    const [c, s] = [Math.cos(this.turn), Math.sin(this.turn)];
    const across = z * c + x * s;
    const depth = -z * s + x * c;
    const up = -y;
    return [
      this.origin[0] + across * this.scale,
      this.origin[1] - (up * Math.cos(TILT) - depth * Math.sin(TILT)) * this.scale,
    ];
  }

  polygon(points, fill, stroke, width = 1) {
    const context = this.context;
    context.beginPath();
    points.forEach((point, index) => context[index ? "lineTo" : "moveTo"](...this.project(point)));
    context.closePath();
    if (fill) { context.fillStyle = fill; context.fill(); }
    if (stroke) { context.strokeStyle = stroke; context.lineWidth = width * this.ratio; context.stroke(); }
  }

  draw() {
    if (!this.body || this.canvas.hidden || !this.canvas.clientWidth) return;
    const { context, width, height, ratio } = prepare(this.canvas);
    Object.assign(this, { context, ratio });
    this.scale = Math.min(width / (this.length + 900), height / 1500);
    this.origin = [width / 2, height * 0.52];
    const [x, , z] = this.middle;
    const table = this.back + 15;
    const half = this.length / 2 + 120;
    this.polygon([[x - 260, table, z - half], [x + 260, table, z - half], [x + 260, table, z + half], [x - 260, table, z + half]], "#22303a", "#4d606d");
    for (const [height_, x0, x1, y0, y1] of this.body.rings) {
      const points = [];
      for (let i = 0; i < RING_POINTS; i += 1) {
        const angle = (i / RING_POINTS) * 2 * Math.PI;
        points.push([(x0 + x1) / 2 + ((x1 - x0) / 2) * Math.cos(angle), (y0 + y1) / 2 + ((y1 - y0) / 2) * Math.sin(angle), height_]);
      }
      this.polygon(points, "#5f7482aa", "#8fa3b0", 0.7);
    }
    this.states.forEach((state, lane) => this.drawArm(state.pose, COLOURS[lane % COLOURS.length]));
  }

  drawArm(pose, colour) {
    const { source, detector, isocenter } = pose;
    const middle = [0, 1, 2].map((axis) => detector.reduce((sum, corner) => sum + corner[axis], 0) / 4);
    detector.forEach((corner, index) => this.polygon([source, corner, detector[(index + 1) % 4]], `${colour}22`, `${colour}88`, 0.8));
    this.polygon(detector, `${colour}77`, colour, 1.5);
    const context = this.context;
    const centre = [0, 1, 2].map((axis) => (source[axis] + middle[axis]) / 2);
    const beam = [0, 1, 2].map((axis) => (source[axis] - middle[axis]) / 2);
    const radius = Math.hypot(...beam);
    // The arc leaves the patient to the head end of the table.
    context.beginPath();
    for (let i = 0; i <= 24; i += 1) {
      const angle = (i / 24) * Math.PI;
      const point = [0, 1, 2].map((axis) => centre[axis] + beam[axis] * Math.cos(angle) + (axis === 0 ? radius * Math.sin(angle) : 0));
      context[i ? "lineTo" : "moveTo"](...this.project(point));
    }
    context.strokeStyle = colour;
    context.lineWidth = 4 * this.ratio;
    context.stroke();
    for (const [point, size] of [[source, 6], [isocenter, 3]]) {
      context.beginPath();
      context.arc(...this.project(point), size * this.ratio, 0, 7);
      context.fillStyle = colour;
      context.fill();
    }
  }
}
