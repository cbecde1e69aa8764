// SPDX-License-Identifier: GPL-3.0-or-later
// The server's own page: jobs, the chosen one's preview, log and files. Speaks the API that Blender speaks.
"use strict";
const $ = id => document.getElementById(id);
const ENDED = ["finished", "failed", "cancelled"];
let chosen = null, reading = null, jobs = [];

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = {...options.headers, ...(token ? {Authorization: `Bearer ${token}`} : {})};
  const answer = await fetch(path, {...options, headers});
  if (answer.status === 401) {
    $("login").hidden = false;
    $("main").hidden = true;
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail || answer.statusText);
  return answer;
}

const post = (path, body) => ask(path, {method: "POST", headers: {"Content-Type": "application/json"},
                                        body: body && JSON.stringify(body)});

function element(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = className;
  return made;
}

// Lists.

async function refresh() {
  try {
    const health = await (await ask("v1/health")).json();
    $("health").textContent = health.problem || `worker ${health.worker}, version ${health.version}`;
    jobs = await (await ask("v1/jobs")).json();
  } catch (error) {
    $("health").textContent = error instanceof TypeError ? "the server does not answer" : error.message;
    return;
  }
  $("jobs").replaceChildren(...jobs.slice(0, 200).map(job => {
    const button = element("button", "");
    button.append(element("span", job.request.prompt), element("span", whereabouts(job), job.state));
    button.setAttribute("aria-current", job.id === chosen);
    button.onclick = () => choose(job.id);
    const item = element("li", "");
    item.append(button);
    return item;
  }));
  if (!chosen && jobs.length) choose(jobs[0].id);
  const job = jobs.find(job => job.id === chosen);
  if (job) show(job);
}

function whereabouts(job) {
  return job.state + (job.machine ? ` on ${job.machine}` : job.place ? `, place ${job.place}` : "");
}

function show(job) {
  $("title").textContent = job.request.prompt;
  $("state").textContent = `${whereabouts(job)}, seed ${job.request.seed}, ${job.request.guidance}`
    + (job.error || job.waits_for ? `: ${job.error || job.waits_for}` : "");
  const verbs = {queued: ["pause", "cancel"], running: ["pause", "finish", "cancel"], paused: ["resume", "finish", "cancel"],
                 failed: ["resume"]}[job.state] || [];
  $("actions").replaceChildren(...verbs.map(verb => {
    const button = element("button", verb[0].toUpperCase() + verb.slice(1));
    button.onclick = async () => {
      try {
        await post(`v1/jobs/${job.id}/${verb}`);
        $("refusal").textContent = "";
        if (verb === "resume" || verb === "finish") choose(job.id);
      } catch (error) {
        $("refusal").textContent = error.message;
      }
      refresh();
    };
    return button;
  }));
  $("files").replaceChildren(...job.files.map(name => {
    const button = element("button", name);
    button.onclick = () => download(job, name);
    return button;
  }));
}

async function download(job, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await ask(`v1/jobs/${job.id}/files/${name}`)).blob());
  link.download = `${job.request.prompt.replace(/\W+/g, "-")}-${name}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// The chosen job.

function choose(id) {
  chosen = id;
  reading?.abort();
  reading = new AbortController();
  $("log").replaceChildren();
  $("progress").textContent = "";
  $("done").style.width = "0";
  preview.clear();
  const {signal} = reading, quiet = error => { if (!signal.aborted) console.info(error); };
  follow(id, signal).catch(quiet);
  watch(id, signal).catch(quiet);
  refresh();
}

async function follow(id, signal) {
  const reader = (await ask(`v1/jobs/${id}/events`, {signal})).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return refresh();
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(event.split("\n").map(line => [line.split(":", 1)[0],
                                                                      line.slice(line.indexOf(":") + 2)]));
      if (fields.data) tell(fields.event, JSON.parse(fields.data));
    }
  }
}

function tell(kind, data) {
  if (kind === "progress") {
    $("done").style.width = `${100 * data.iteration / data.iterations}%`;
    $("progress").textContent = `${data.phase}${data.share == null ? "" : ` ${Math.round(100 * data.share)} %`}, iteration ${data.iteration} of ${data.iterations}`
      + (data.eta == null ? "" : `, ${Math.ceil(data.eta)} s left`);
  } else if (kind === "log") {
    $("log").append(element("li", data.message, data.level));
  } else {
    $("log").append(element("li", data.state + (data.error ? `: ${data.error}` : "")));
    if (data.id === chosen) show(data);
  }
}

// Frames: 8 bytes of length, an uncompressed .npz, 4 bytes of checksum.

async function watch(id, signal) {
  const reader = (await ask(`v1/jobs/${id}/snapshots`, {signal})).body.getReader();
  let parts = [], have = 0;
  const asset = {};
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts.push(value);
    have += value.length;
    for (;;) {
      if (have < 8) break;
      if (parts.length > 1) {
        const whole = new Uint8Array(have);
        parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
        parts = [whole];
      }
      const length = Number(new DataView(parts[0].buffer, parts[0].byteOffset).getBigUint64(0, true));
      if (have < 8 + length) break;
      Object.assign(asset, arrays(parts[0].slice(8, 4 + length)));
      parts = [parts[0].slice(8 + length)];
      have = parts[0].length;
      preview.show(asset);
    }
  }
  const job = jobs.find(job => job.id === id);
  if (!asset.faces && job?.files.includes("turntable.png")) preview.picture(
    await createImageBitmap(await (await ask(`v1/jobs/${id}/files/turntable.png`, {signal})).blob()));
}

function arrays(bytes) {
  const found = {}, view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const kinds = {"<f4": Float32Array, "<i4": Int32Array, "|u1": Uint8Array, "<i8": BigInt64Array};
  for (let at = 0; at + 30 < bytes.length && view.getUint32(at, true) === 0x04034b50;) {
    const nameLength = view.getUint16(at + 26, true), extra = view.getUint16(at + 28, true);
    let size = view.getUint32(at + 18, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 30, at + 30 + nameLength));
    // numpy always writes the 64-bit sizes, in the first extra field.
    if (size === 0xffffffff) size = Number(view.getBigUint64(at + 30 + nameLength + 4 + 8, true));
    const start = at + 30 + nameLength + extra;
    const header = view.getUint16(start + 8, true);
    const text = new TextDecoder().decode(bytes.subarray(start + 10, start + 10 + header));
    const kind = kinds[/'descr': '([^']+)'/.exec(text)[1]];
    found[name.replace(".npy", "")] = new kind(bytes.slice(start + 10 + header, start + size).buffer);
    at = start + size;
  }
  return found;
}

// The preview: the mesh with its colours, flat shaded by a light at the camera. It turns a little with every snapshot
// and is drawn on change only: the card, or the cores, are the optimization's.

const preview = (() => {
  const canvas = $("preview"), gl = canvas.getContext("webgl2", {antialias: true});
  let count = 0, angle = 0.6, tilt = 0.35, held = null, size = 1, centre = [0, 0, 0], asked = 0;
  if (!gl) return {clear() {}, show() {}, picture() {}};
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, `#version 300 es
      in vec3 position; in vec3 colour; out vec3 place; out vec3 albedo;
      uniform mat3 turn; uniform vec3 centre; uniform float size, aspect;
      void main() {
        place = turn * ((position - centre) / size); albedo = colour;
        float depth = 3.2 - place.z;
        gl_Position = vec4(2.6 * place.x / aspect, 2.6 * place.y, (depth - 2.0) * 1.2 - 1.0, depth);
      }`], [gl.FRAGMENT_SHADER, `#version 300 es
      precision highp float;
      in vec3 place; in vec3 albedo; out vec4 shown;
      void main() {
        vec3 normal = normalize(cross(dFdx(place), dFdy(place)));
        shown = vec4(albedo * (0.45 + 0.6 * abs(normal.z)), 1.0);
      }`]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  gl.clearColor(0.75, 0.75, 0.75, 1);
  const place = name => gl.getUniformLocation(program, name);
  const buffers = {position: gl.createBuffer(), colour: gl.createBuffer(), faces: gl.createBuffer()};

  function attribute(name, data, kind, normalized) {
    const at = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 3, kind, normalized, 0, 0);
  }

  function redraw() { asked ||= requestAnimationFrame(draw); }

  function draw() {
    asked = 0;
    const [c, s, k, t] = [Math.cos(angle), Math.sin(angle), Math.cos(tilt), Math.sin(tilt)];
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    // Z is up: right, up and toward the camera as rows, which WebGL takes as columns.
    gl.uniformMatrix3fv(place("turn"), false, [c, s * t, -s * k, s, -c * t, c * k, 0, k, t]);
    gl.uniform3fv(place("centre"), centre);
    gl.uniform1f(place("size"), size);
    gl.uniform1f(place("aspect"), canvas.width / canvas.height);
    if (count) gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
  }
  redraw();
  canvas.onpointerdown = event => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointermove = event => {
    if (!held) return;
    angle -= 0.01 * (event.clientX - held[0]);
    tilt = Math.max(-1.5, Math.min(1.5, tilt + 0.01 * (event.clientY - held[1])));
    held = [event.clientX, event.clientY];
    redraw();
  };
  canvas.onpointerup = () => { held = null; };
  return {
    clear() { count = 0; redraw(); document.getElementById("sheet")?.remove(); canvas.hidden = false; },
    picture(image) {
      const sheet = element("canvas", "");
      [sheet.id, sheet.width, sheet.height] = ["sheet", image.width, image.height];
      sheet.getContext("2d").drawImage(image, 0, 0);
      this.clear();
      canvas.hidden = true;
      canvas.after(sheet);
    },
    show(asset) {
      const {positions, faces} = asset;
      if (!positions || !faces) return;
      const colours = asset.colours || new Uint8Array(positions.length).fill(204);
      const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
      positions.forEach((value, i) => {
        low[i % 3] = Math.min(low[i % 3], value);
        high[i % 3] = Math.max(high[i % 3], value);
      });
      centre = low.map((value, i) => (value + high[i]) / 2);
      size = Math.hypot(...low.map((value, i) => high[i] - value)) / 2 || 1;
      attribute("position", positions, gl.FLOAT, false);
      attribute("colour", colours, gl.UNSIGNED_BYTE, true);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffers.faces);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint32Array(faces.buffer), gl.DYNAMIC_DRAW);
      count = faces.length;
      if (!held) angle += 0.06;
      redraw();
    },
  };
})();

$("login").onsubmit = event => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  $("login").hidden = true;
  $("main").hidden = false;
  refresh();
};
$("submit").onsubmit = async event => {
  event.preventDefault();
  try {
    const prompt = $("prompt").value || $("prompt").placeholder;
    choose((await (await post("v1/jobs", {prompt})).json()).id);
    $("prompt").value = $("refusal").textContent = "";
  } catch (error) {
    $("refusal").textContent = error.message;
  }
};
refresh();
setInterval(refresh, 2000);
