/**
 * Sums of splats by WebGL 2: a quad a splat, added up in floating point. Layers
 * that are drawn stay, so that a new one costs its own splats alone.
 *
 * All renderers share one context, as browsers allow only some sixteen, and
 * each hands its picture to a canvas of its own.
 */

import {addedVariance, sameGrid} from './grid.js';
import {SPLAT_FLOATS} from './splat_coding.js';

/** @typedef {import('./grid.js').Grid} Grid */

// Splats that are added in half floats before the sum goes into full ones.
const HALF_FLOAT_RUN = 256;

// A quad around 3.5 sigma, and a little more: devices place corners to 1/256.
const SPLAT_VERTEX = `#version 300 es
precision highp float;
layout(location = 0) in vec2 mean;
layout(location = 1) in vec3 cholesky;
layout(location = 2) in vec4 color;
uniform vec4 place;  // fx, fy, x0, y0
uniform vec2 size;
uniform vec2 variance;
flat out vec2 center;
flat out vec3 factor;
flat out vec4 weight;
void main() {
  center = place.xy * mean + place.zw;
  factor = place.xyy * cholesky;
  weight = color;
  if (variance != vec2(0)) {
    float a = sqrt(factor.x * factor.x + variance.x);
    float cosine = factor.x / a;
    float rest = factor.y * factor.y * variance.x / (a * a);
    float c = sqrt(factor.z * factor.z + variance.y + rest);
    weight *= cosine * factor.z / c;
    factor = vec3(a, cosine * factor.y, c);
  }
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2. - 1.;
  float u = corner.x * (3.51 + .02 / factor.x);
  float v = corner.y * (3.51 + .02 / factor.z);
  vec2 at = center + vec2(factor.x * u, factor.y * u + factor.z * v);
  gl_Position = vec4(at / size * 2. - 1., 0, 1);
}`;

// From the pixel's own place: an offset from the corners is 1000 times coarser.
const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
flat in vec2 center;
flat in vec3 factor;
flat in vec4 weight;
out vec4 sum;
void main() {
  vec2 offset = gl_FragCoord.xy - center;
  float u = offset.x / factor.x;
  float v = (offset.y - factor.y * u) / factor.z;
  float half_square = .5 * (u * u + v * v);
  if (!(half_square <= 6.125)) discard;
  sum = weight * exp(-half_square);
}`;

const SCREEN_VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4. - 1.;
  gl_Position = vec4(corner, 0, 1);
}`;

const ADD_FRAGMENT = `#version 300 es
precision highp float;
uniform highp sampler2D sums;
uniform highp sampler2D run;
out vec4 sum;
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  sum = texelFetch(sums, at, 0) + texelFetch(run, at, 0);
}`;

// Rows of the sums go down, those of a canvas up.
const SHOW_FRAGMENT = `#version 300 es
precision highp float;
uniform highp sampler2D sums;
uniform int channels;
uniform int top;  // rows of the canvas, or 0: rows go down
uniform bool premultiply;
out vec4 pixel;
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  if (top > 0) at.y = top - 1 - at.y;
  vec4 c = floor(clamp(texelFetch(sums, at, 0), 0., 1.) * 255. + .5) / 255.;
  pixel = channels == 1 ? vec4(c.rrr, 1) : channels == 2 ? c.rrrg
      : channels == 3 ? vec4(c.rgb, 1) : c;
  if (premultiply) pixel.rgb *= pixel.a;
}`;

/** @type {SharedContext | null | undefined} */
let shared;

/** The context, what it can do, and its programs. */
class SharedContext {
  constructor() {
    this.canvas = document.createElement('canvas');
    const gl = this.canvas.getContext('webgl2', {
      antialias: false,
      depth: false,
    });
    if (!gl || !gl.getExtension('EXT_color_buffer_float')) {
      throw new Error('WebGL 2 with floating-point pictures is not there');
    }
    this.gl = gl;
    this.blendsFloats = gl.getExtension('EXT_float_blend') !== null;
    this.splats = program(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.add = program(gl, SCREEN_VERTEX, ADD_FRAGMENT);
    this.show = program(gl, SCREEN_VERTEX, SHOW_FRAGMENT);
    this.maxSize = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    this.attributes = gl.createVertexArray();
    gl.bindVertexArray(this.attributes);
    for (let i = 0; i < 3; i++) {
      gl.enableVertexAttribArray(i);
      gl.vertexAttribDivisor(i, 1);
    }
    gl.bindVertexArray(null);
  }
}

/** @returns {SharedContext | null} null where it cannot be had */
function sharedContext() {
  if (shared?.gl.isContextLost()) shared = undefined;
  if (shared === undefined) {
    try {
      shared = new SharedContext();
    } catch {
      shared = null;
    }
  }
  return shared;
}

/** Whether splats can be drawn by WebGL here. */
export function hasWebGl() {
  return typeof document !== 'undefined' && sharedContext() !== null;
}

/** @param {WebGL2RenderingContext} gl */
function program(gl, vertex, fragment) {
  const made = /** @type {WebGLProgram} */ (gl.createProgram());
  for (const [type, source] of [
    [gl.VERTEX_SHADER, vertex],
    [gl.FRAGMENT_SHADER, fragment],
  ]) {
    const shader = /** @type {WebGLShader} */ (gl.createShader(type));
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) {
    throw new Error(`WebGL: ${gl.getProgramInfoLog(made)}`);
  }
  /** @type {Record<string, WebGLUniformLocation | null>} */
  const uniforms = {};
  const count = gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS);
  for (let i = 0; i < count; i++) {
    const {name} = /** @type {WebGLActiveInfo} */ (
      gl.getActiveUniform(made, i)
    );
    uniforms[name] = gl.getUniformLocation(made, name);
  }
  return {program: made, uniforms};
}

/** A floating-point picture to draw into. */
class Target {
  constructor(gl, format, width, height) {
    this.gl = gl;
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
    // Full floats cannot be interpolated, and then read as 0.
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    }
    this.framebuffer = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.framebuffer);
    gl.framebufferTexture2D(
      gl.FRAMEBUFFER,
      gl.COLOR_ATTACHMENT0,
      gl.TEXTURE_2D,
      this.texture,
      0,
    );
    this.clear();
  }

  bind() {
    this.gl.bindFramebuffer(this.gl.FRAMEBUFFER, this.framebuffer);
  }

  clear() {
    this.bind();
    this.gl.clearColor(0, 0, 0, 0);
    this.gl.clear(this.gl.COLOR_BUFFER_BIT);
  }

  dispose() {
    this.gl.deleteTexture(this.texture);
    this.gl.deleteFramebuffer(this.framebuffer);
  }
}

/** Draws the layers of one picture onto one canvas. */
export class WebGlRenderer {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} channels
   * @param {{halfFloats?: boolean}} [options] as on devices that cannot add up
   *   full floats
   */
  constructor(canvas, channels, {halfFloats = false} = {}) {
    this.canvas = canvas;
    this.channels = channels;
    this.halfFloats = halfFloats;
    /** @type {(Float32Array | undefined)[]} */
    this.layers = [];
    /** @type {Grid | null} */
    this.grid = null;
    this.forget();
  }

  /** Forgets what the device holds: it is made anew from the layers. */
  forget() {
    /** @type {SharedContext | null} */
    this.shared = null;
    /** @type {(WebGLBuffer | undefined)[]} */
    this.buffers = [];
    /** @type {Target | null} */
    this.sums = null;
    // Of half floats, and the full ones that they go into by turns.
    /** @type {Target | null} */
    this.run = null;
    /** @type {Target | null} */
    this.spare = null;
    /** Layers in the sums. @type {number[]} */
    this.drawn = [];
  }

  /**
   * @param {number} layer
   * @param {Float32Array} splats replace those that it had
   */
  setLayer(layer, splats) {
    this.layers[layer] = splats;
    if (this.drawn.includes(layer)) this.drawn = [Infinity];
    const gl = this.shared?.gl;
    if (gl && this.buffers[layer]) this.#upload(gl, layer);
  }

  #upload(gl, layer) {
    this.buffers[layer] ??= gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[layer]);
    gl.bufferData(gl.ARRAY_BUFFER, this.layers[layer], gl.DYNAMIC_DRAW);
  }

  /**
   * Shows the sum of some layers.
   *
   * @param {Grid} grid
   * @param {number[]} layers
   */
  async draw(grid, layers) {
    const context = sharedContext();
    if (!context) throw new Error('WebGL 2 has gone');
    if (context !== this.shared) {
      this.forget();
      this.shared = context;
      this.grid = null;
    }
    const {gl} = context;
    if (!sameGrid(grid, this.grid)) this.#resize(context, grid);
    const kept = this.drawn.every((layer, i) => layers[i] === layer);
    if (!kept) {
      /** @type {Target} */ (this.sums).clear();
      this.drawn = [];
    }
    gl.viewport(0, 0, grid.width, grid.height);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    for (const layer of layers.slice(this.drawn.length)) {
      if (this.layers[layer]?.length) this.#add(context, grid, layer);
    }
    gl.disable(gl.BLEND);
    this.drawn = [...layers];
    this.#show(context, grid);
  }

  /**
   * @param {SharedContext} context
   * @param {Grid} grid
   */
  #resize({gl, blendsFloats}, grid) {
    const {width, height} = grid;
    if (width !== this.grid?.width || height !== this.grid?.height) {
      this.#disposeTargets();
      const target = (format) => new Target(gl, format, width, height);
      this.sums = target(gl.RGBA32F);
      if (this.halfFloats || !blendsFloats) {
        this.run = target(gl.RGBA16F);
        this.spare = target(gl.RGBA32F);
      }
    }
    this.grid = {...grid};
    // Nothing in them is of use any more.
    this.drawn = [Infinity];
  }

  /**
   * @param {SharedContext} context
   * @param {Grid} grid
   * @param {number} layer
   */
  #add({gl, attributes, splats: {program, uniforms}, add}, grid, layer) {
    if (!this.buffers[layer]) this.#upload(gl, layer);
    const count =
      /** @type {Float32Array} */ (this.layers[layer]).length / SPLAT_FLOATS;
    const step = this.run ? HALF_FLOAT_RUN : count;
    for (let first = 0; first < count; first += step) {
      gl.useProgram(program);
      gl.bindVertexArray(attributes);
      const {fx, fy, x0, y0, width, height} = grid;
      gl.uniform4f(uniforms.place, fx, fy, x0, y0);
      gl.uniform2f(uniforms.size, width, height);
      gl.uniform2f(uniforms.variance, addedVariance(fx), addedVariance(fy));
      gl.bindBuffer(
        gl.ARRAY_BUFFER,
        /** @type {WebGLBuffer} */ (this.buffers[layer]),
      );
      let offset = 4 * SPLAT_FLOATS * first;
      for (const [i, size] of [2, 3, 4].entries()) {
        gl.vertexAttribPointer(
          i,
          size,
          gl.FLOAT,
          false,
          4 * SPLAT_FLOATS,
          offset,
        );
        offset += 4 * size;
      }
      if (this.run) this.run.clear();
      else this.sums?.bind();
      const instances = Math.min(step, count - first);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, instances);
      gl.bindVertexArray(null);
      if (this.run) this.#resolve(gl, add);
    }
  }

  /** Adds what was summed up in half floats, where full ones do not blend. */
  #resolve(gl, {program, uniforms}) {
    gl.disable(gl.BLEND);
    this.spare?.bind();
    gl.useProgram(program);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.run?.texture);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.sums?.texture);
    gl.uniform1i(uniforms.sums, 0);
    gl.uniform1i(uniforms.run, 1);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.enable(gl.BLEND);
    [this.sums, this.spare] = [this.spare, this.sums];
  }

  /**
   * @param {SharedContext} context
   * @param {Grid} grid
   */
  #show(context, grid) {
    const {gl, canvas} = context;
    const {width, height} = grid;
    // It only grows: resizing clears, and takes time.
    if (canvas.width < width) canvas.width = width;
    if (canvas.height < height) canvas.height = height;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    this.#paint(context, height, true);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const target = /** @type {CanvasRenderingContext2D} */ (
      this.canvas.getContext('2d')
    );
    target.globalCompositeOperation = 'copy';
    const top = canvas.height - height;
    target.drawImage(canvas, 0, top, width, height, 0, 0, width, height);
  }

  #paint({gl, show: {program, uniforms}}, top, premultiply) {
    gl.useProgram(program);
    gl.bindTexture(gl.TEXTURE_2D, this.sums?.texture ?? null);
    gl.uniform1i(uniforms.sums, 0);
    gl.uniform1i(uniforms.channels, this.channels);
    gl.uniform1i(uniforms.top, top);
    gl.uniform1i(uniforms.premultiply, premultiply ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** @returns {ImageData} what was drawn last, alpha not multiplied in */
  pixels() {
    const context = /** @type {SharedContext} */ (this.shared);
    const {gl} = context;
    const {width, height} = /** @type {Grid} */ (this.grid);
    const target = new Target(gl, gl.RGBA8, width, height);
    gl.bindTexture(gl.TEXTURE_2D, null);
    gl.viewport(0, 0, width, height);
    this.#paint(context, 0, false);
    const data = new Uint8ClampedArray(4 * width * height);
    const bytes = new Uint8Array(data.buffer);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    target.dispose();
    return new ImageData(data, width, height);
  }

  #disposeTargets() {
    for (const target of [this.sums, this.run, this.spare]) target?.dispose();
    this.sums = this.run = this.spare = null;
  }

  dispose() {
    this.#disposeTargets();
    for (const buffer of this.buffers) {
      if (buffer) this.shared?.gl.deleteBuffer(buffer);
    }
    this.forget();
    this.layers = [];
  }
}
