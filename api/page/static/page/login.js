// Asks the reader for a token, unless this is a demo.

import { keep } from "./session.js";

const section = document.getElementById("login");
const form = document.getElementById("login-form");
const field = document.getElementById("login-token");
const fault = document.getElementById("login-error");

const SAID = {
  token_expired: "That token has expired. Show a newer one.",
  token_revoked: "That token was revoked. Show another one.",
  scope_missing: "That token lacks a scope that this page needs: ws:connect and stats:read.",
};

/** Resolves with the reader's token; `refused` is why the service refused the previous one. */
export function askToken(refused = null) {
  document.body.dataset.view = "login";
  section.hidden = false;
  fault.textContent = refused === null ? "" : explained(refused);
  field.value = "";
  field.focus();
  return new Promise((done) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      const token = field.value.trim();
      // A text that is not a JWT cannot be a WebSocket subprotocol.
      if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) {
        fault.textContent = "That is no JWT: it has three parts with points between them.";
        return;
      }
      keep(token);
      field.value = "";
      section.hidden = true;
      done(token);
    };
  });
}

function explained(error) {
  const code = error.reason ?? error.code ?? "";
  return SAID[code] ?? `The service does not take that token (${code || error.message}).`;
}
