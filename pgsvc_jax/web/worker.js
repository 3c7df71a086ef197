/** What a worker runs: files of a page are read and decoded beside it. */

import {serve} from './session.js';

serve(/** @type {any} */ (globalThis));
