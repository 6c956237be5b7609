// Two sockets to the panel's server, opened again whenever they close: words and state, and pictures.

const AGAIN = 500; // ms until a closed socket is opened again
const PATIENCE = 250; // ms for a stop to be answered
const HERE = 250; // ms between two words that an operator has the page before them

function address(path) {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
}

export class Control {
  #socket; #number = 0; #timed = 0; #asked = new Map();

  constructor(hear, opened) {
    this.hear = hear;
    this.opened = opened;
    this.#open();
    setInterval(() => document.hidden || this.sayNow({ do: "here" }), HERE);
  }

  #open() {
    const socket = (this.#socket = new WebSocket(address("/control")));
    socket.onopen = () => this.opened(true);
    socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if ("answer" in message) {
        const settle = this.#asked.get(message.answer);
        this.#asked.delete(message.answer);
        (settle ?? ((answer) => this.hear({ refused: answer })))(message);
      } else this.hear(message);
    };
    socket.onclose = () => {
      for (const settle of this.#asked.values()) settle({ ok: false, message: "the connection broke; was it done?" });
      this.#asked.clear();
      this.opened(false);
      setTimeout(() => this.#open(), AGAIN);
    };
  }

  get open() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  // Says a word; its answer.
  ask(word) {
    if (!this.open) return Promise.resolve({ ok: false, message: "not connected to the panel's server" });
    const id = ++this.#number;
    this.#socket.send(JSON.stringify({ ...word, id }));
    return new Promise((settle) => this.#asked.set(id, settle));
  }

  // Says a word that is worth nothing later: with its time and number, by which the server knows what was held back on
  // the way or comes twice, and not at all while earlier ones wait here.
  sayNow(word) {
    if (!this.open || this.#socket.bufferedAmount) return;
    this.#socket.send(JSON.stringify({ ...word, number: ++this.#timed, sent: performance.now() / 1000 }));
  }

  // By the socket; by another road, too, where that is closed or does not answer: it may be dead without knowing it.
  async stop() {
    const road = () => fetch("/stop", { method: "POST", keepalive: true }).then((reply) => reply.json());
    if (!this.open) return road();
    const answer = this.ask({ do: "stop" });
    const late = new Promise((settle) => setTimeout(settle, PATIENCE));
    return (await Promise.race([answer, late])) ?? Promise.any([answer, road()]);
  }
}

export class Pictures {
  #socket; #view = "";

  // show(view number, bitmap, [sec, nanosec]) is awaited: the next picture comes when this one is on the screen.
  constructor(show, refuse) {
    this.show = show;
    this.refuse = refuse;
    document.addEventListener("visibilitychange", () => this.look(this.#view));
    this.#open();
  }

  #open() {
    const socket = (this.#socket = new WebSocket(address("/pictures")));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.look(this.#view);
    socket.onmessage = async (event) => {
      try {
        await this.#take(event.data);
      } finally {
        if (socket.readyState === WebSocket.OPEN) socket.send("shown");
      }
    };
    socket.onclose = () => setTimeout(() => this.#open(), AGAIN);
  }

  async #take(data) {
    if (typeof data === "string") return this.refuse(JSON.parse(data).message);
    const head = new DataView(data);
    const stamp = [head.getInt32(4), head.getUint32(8)];
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 12)], { type: "image/jpeg" }));
    await this.show(head.getUint32(0), bitmap, stamp);
    bitmap.close();
  }

  // From now on this view; nothing while the page cannot be seen.
  look(view) {
    this.#view = view;
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(document.hidden ? "-" : view || "-");
  }
}
