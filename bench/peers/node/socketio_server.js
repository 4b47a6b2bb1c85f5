// Socket.IO as it comes, WebSocket only: node socketio_server.js PORT. Prints "ready PORT".
// `join ROOM` (acknowledged) makes a member; `m ROOM TEXT` goes to every member as `m TEXT`.
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"], perMessageDeflate: false, serveClient: false });

io.on("connection", (socket) => {
  socket.on("join", (room, done) => {
    socket.join(room);
    done();
  });
  socket.on("m", (room, text) => io.to(room).emit("m", text));
});
http.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 }, () => {
  console.log(`ready ${process.argv[2]}`);
});
