"""The contract with clients, without sockets: messages, JSON, codes."""
