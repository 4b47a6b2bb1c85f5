// Sockets of npm's `ws` for a Python test: commands as JSON lines on stdin, events as JSON lines on stdout.
//
//   {"op": "open", "n": 1, "url": "ws://…"}     ->  {"n": 1, "event": "open", "protocol": "tusk.v1"}
//   {"op": "send", "n": 1, "text": "…"}             {"n": 1, "event": "message", "text": "…"}
//   {"op": "close", "n": 1, "code": 1000}           {"n": 1, "event": "close", "code": 1000}

"use strict";

const readline = require("node:readline");
const WebSocket = require("ws");

const sockets = new Map();
const tell = (event) => process.stdout.write(JSON.stringify(event) + "\n");

const operations = {
  open({ n, url }) {
    const socket = new WebSocket(url, ["tusk.v1"]);
    sockets.set(n, socket);
    socket.on("open", () => tell({ n, event: "open", protocol: socket.protocol }));
    socket.on("message", (data) => tell({ n, event: "message", text: data.toString() }));
    socket.on("close", (code) => tell({ n, event: "close", code }));
    socket.on("error", (error) => tell({ n, event: "error", text: String(error) }));
  },
  send({ n, text }) {
    sockets.get(n).send(text);
  },
  close({ n, code }) {
    sockets.get(n).close(code);
  },
};

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = JSON.parse(line);
  operations[command.op](command);
});
lines.on("close", () => process.exit(0));
