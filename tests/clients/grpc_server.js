// The part of grpc_server.py that needs another server: one method, on grpc-js, whose connections grow old.
// grpc_server.js NAME=MILLISECONDS ... for options of the server that are numbers.

const grpc = require("@grpc/grpc-js");

const bytes = (message) => message;
const unary = {
  requestStream: false,
  responseStream: false,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
};

// Sends everything back after a moment, so that some calls are always under way.
const nap = (call, answer) => setTimeout(() => answer(null, call.request), 5);

const options = process.argv.slice(2).map((word) => word.split("="));
const server = new grpc.Server(Object.fromEntries(options.map(([name, value]) => [name, Number(value)])));
server.addService({ nap: { ...unary, path: "/test.Edges/nap" } }, { nap });
server.bindAsync(`0.0.0.0:${process.env.PORT}`, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
