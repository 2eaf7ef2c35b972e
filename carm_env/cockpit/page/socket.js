// The connection to the server: it comes back by itself, and greets the server again.

const DELAYS_MS = [300, 600, 1200, 2500, 5000];

export class Connection {
  // `greeting` returns the first message, or null if there is nothing to say yet.
  constructor(path, greeting, handlers) {
    this.path = path;
    this.greeting = greeting;
    this.handlers = handlers;
    this.tries = 0;
    this.isTaken = false;
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/${this.path}`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      const greeting = this.greeting();
      if (greeting) this.send(greeting);
      this.handlers.opened?.();
    };
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
    // A server that refuses the page is not asked again at once.
    if (message.type !== "refused") this.tries = 0;
    if (message.type === "taken") {
      this.isTaken = true;
      this.socket.close();
      this.handlers.taken(message.text);
    } else {
      this.handlers[message.type]?.(message);
    }
  }

  closed() {
    if (this.isTaken) return;
    this.handlers.lost();
    const delay = DELAYS_MS[Math.min(this.tries, DELAYS_MS.length - 1)];
    this.tries += 1;
    setTimeout(() => this.connect(), delay);
  }

  takeBack() {
    this.isTaken = false;
    this.connect();
  }

  get isOpen() { return this.socket.readyState === WebSocket.OPEN; }

  send(message) {
    if (!this.isOpen) {
      this.handlers.refused({ text: "There is no connection to the server at the moment: nothing was sent." });
      return false;
    }
    this.socket.send(JSON.stringify(message));
    return true;
  }
}
