/**
 * One script tag for a page:
 *
 * ```html
 * <script type="module" src="elements.js"></script>
 * <pgsvc-image src="photo.pgsvc" alt="A photograph"></pgsvc-image>
 * <pgsvc-video src="clip.pgsvc" controls loop></pgsvc-video>
 * ```
 */

import {PgsvcImage} from './image_element.js';
import {PgsvcVideo} from './video_element.js';

if (globalThis.customElements && !customElements.get('pgsvc-image')) {
  customElements.define('pgsvc-image', PgsvcImage);
  customElements.define('pgsvc-video', PgsvcVideo);
}

export {PgsvcImage, PgsvcVideo};
