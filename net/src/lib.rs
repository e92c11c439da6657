//! The wire: frames, requests, replies, routing, clients.
