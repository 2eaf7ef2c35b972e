// The connection to the server: it comes back by itself, and continues the session of this tab.

const KEY = "carm-env session";
const DELAYS_MS = [300, 600, 1200, 2500, 5000];

export class Connection {
  constructor(handlers) {
    this.handlers = handlers;
    this.tries = 0;
    this.isTaken = false;
    this.connect();
  }

  get session() { return sessionStorage.getItem(KEY) || ""; }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/socket`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.send({ type: "hello", session: this.session });
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = () => this.closed();
  }

  receive(data) {
    if (data instanceof ArrayBuffer) {
      const length = new DataView(data).getUint32(0, true);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      this.handlers.frame(header, new Uint8Array(data, 4 + length));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "welcome") {
      const isNew = message.session !== this.session;
      sessionStorage.setItem(KEY, message.session);
      this.tries = 0;
      this.handlers.status("connected", isNew);
    } else if (message.type === "taken") {
      this.isTaken = true;
      this.socket.close();
      this.handlers.taken(message.text);
    } else {
      this.handlers[message.type]?.(message);
    }
  }

  closed() {
    if (this.isTaken) return;
    this.handlers.status("lost");
    const delay = DELAYS_MS[Math.min(this.tries, DELAYS_MS.length - 1)];
    this.tries += 1;
    setTimeout(() => this.connect(), delay);
  }

  takeBack() {
    this.isTaken = false;
    this.connect();
  }

  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) {
      this.handlers.refused({ text: "There is no connection to the server at the moment: nothing was sent." });
      return false;
    }
    this.socket.send(JSON.stringify(message));
    return true;
  }
}
