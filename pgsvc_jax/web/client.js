/** The page's end of sessions, which run in one worker for all of the page. */

import {serve} from './session.js';

/** @type {{postMessage: (message: any) => void} | null} */
let channel = null;
/** @type {Map<number, (message: any) => void>} */
const listeners = new Map();
let nextId = 0;

// What no worker has answered yet; null once one has.
/** @type {any[] | null} */
let unanswered = [];

function receive({data: {id, message}}) {
  unanswered = null;
  listeners.get(id)?.(message);
}

/** A channel to code in the page itself, where no worker can be started. */
function localChannel() {
  const {port1, port2} = new MessageChannel();
  serve(port2);
  port1.onmessage = receive;
  return port1;
}

/** A worker; a page that holds all in one file says where it is. */
function startWorker() {
  const held = /** @type {any} */ (globalThis).pgsvcWorkerUrl;
  const worker = held
    ? new Worker(held)
    : new Worker(new URL('./worker.js', import.meta.url), {type: 'module'});
  worker.onmessage = receive;
  worker.onerror = (event) => {
    if (unanswered) {
      // It never began: policies of pages may forbid it.
      const messages = unanswered;
      channel = localChannel();
      for (const message of messages) channel.postMessage(message);
      return;
    }
    channel = null;
    const message = `the decoder failed: ${event.message}`;
    for (const tell of listeners.values()) tell({type: 'error', message});
  };
  return worker;
}

function openChannel() {
  if (channel) return channel;
  try {
    channel = startWorker();
  } catch {
    channel = localChannel();
  }
  return channel;
}

/** One file. */
export class Client {
  /**
   * @param {import('./session.js').OpenMessage} request
   * @param {(message: any) => void} listener what its session says
   */
  constructor(request, listener) {
    this.id = nextId++;
    listeners.set(this.id, listener);
    this.post(request);
  }

  /** @param {import('./session.js').SessionRequest} message */
  post(message) {
    unanswered?.push({id: this.id, message});
    openChannel().postMessage({id: this.id, message});
  }

  close() {
    this.post({type: 'close'});
    listeners.delete(this.id);
  }
}
