// The raw protocol on Bun's own server, with its own publish: bun bun_server.js PORT. Prints "ready PORT".
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    const room = new URL(request.url).pathname;
    return server.upgrade(request, { data: { room } }) ? undefined : new Response("upgrade", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    backpressureLimit: 64 * 1024 * 1024,
    open(ws) {
      if (ws.data.room !== "/echo") ws.subscribe(ws.data.room);
    },
    message(ws, message) {
      if (ws.data.room === "/echo") ws.send(message);
      else server.publish(ws.data.room, message);
    },
  },
});
console.log(`ready ${server.port}`);
