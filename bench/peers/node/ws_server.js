// The raw protocol on Node's `ws`, one send a member: node ws_server.js PORT. Prints "ready PORT".
const { createServer } = require("node:http");
const { WebSocketServer } = require("ws");

const rooms = new Map();
const http = createServer();
const server = new WebSocketServer({ server: http, perMessageDeflate: false, clientTracking: false });

server.on("connection", (socket, request) => {
  socket.on("error", () => socket.terminate());
  if (request.url === "/echo") {
    socket.on("message", (data, binary) => socket.send(data, { binary }));
    return;
  }
  let members = rooms.get(request.url);
  if (members === undefined) rooms.set(request.url, (members = new Set()));
  members.add(socket);
  socket.on("message", (data, binary) => {
    for (const member of members) member.send(data, { binary });
  });
  socket.on("close", () => members.delete(socket));
});
http.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 }, () => {
  console.log(`ready ${process.argv[2]}`);
});
