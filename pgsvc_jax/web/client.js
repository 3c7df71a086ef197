/** The page's end of sessions, which run in one worker for all of the page. */

import {serve} from './session.js';

/** @type {{postMessage: (message: any) => void} | null} */
let channel = null;
/** @type {Map<number, (message: any) => void>} */
const listeners = new Map();
let nextId = 0;

/** @returns {string | URL} pages that hold all in one file set another */
function workerUrl() {
  return (
    /** @type {any} */ (globalThis).pgsvcWorkerUrl ??
    new URL('./worker.js', import.meta.url)
  );
}

function receive({data: {id, message}}) {
  listeners.get(id)?.(message);
}

/** A channel to code in the page itself, where no worker can be started. */
function localChannel() {
  const {port1, port2} = new MessageChannel();
  serve(port2);
  port1.onmessage = receive;
  return port1;
}

function openChannel() {
  if (channel) return channel;
  try {
    const worker = new Worker(workerUrl(), {type: 'module'});
    worker.onmessage = receive;
    worker.onerror = (event) => {
      const message = `the decoder failed: ${event.message ?? 'no worker'}`;
      for (const tell of listeners.values()) tell({type: 'error', message});
      channel = null;
    };
    channel = worker;
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
    openChannel().postMessage({id: this.id, message});
  }

  close() {
    this.post({type: 'close'});
    listeners.delete(this.id);
  }
}
