// The page: reads a picture, asks the network once, and draws anew whenever a slider moves.
import * as ort from "./runtime/ort.wasm.min.mjs";
import { dice, kMeans, maskOf, measure, probability, resize, square, toGrey } from "./segment.js";

const MIN_SIDE = 32; // pixels; less shows no tissue
const MAX_PIXELS = 4e6; // larger ones would make the sliders slow
const CLUSTER_SIDE = 256; // the square that the package's K-Means works on
const SHOWN_SIDE = 900; // of a panel's longer side
// Tables of colours, each a 32-bit pixel, by grey level or by probability in steps of 1/255.
const LEVELS = [...Array(256).keys()];
const pixel = (r, g, b) => (255 << 24) | (b << 16) | (g << 8) | r;
const GREY = LEVELS.map((level) => pixel(level, level, level));
const [CYAN, ORANGE, WHITE] = [[39, 215, 242], [230, 159, 0], [255, 255, 255]];
const [CYAN_TINT, ORANGE_TINT, WHITE_TINT] = [CYAN, ORANGE, WHITE].map((colour) =>
  LEVELS.map((level) => pixel(...colour.map((value) => 0.65 * value + 0.35 * level))),
);
const STOPS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map((hex) =>
  [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);
const VIRIDIS = LEVELS.map((level) => {
  const low = Math.min(Math.floor(level / 32), 7);
  return pixel(...STOPS[low].map((from, c) => from + (level / 32 - low) * (STOPS[low + 1][c] - from)));
});

const part = (id) => document.getElementById(id);
const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });

class Refused extends Error {}

// -- reading and segmenting -----------------------------------------------------------------------------------

/** Grey image of a picture file; throws Refused with one sentence for the visitor. */
async function read(blob, name) {
  const url = URL.createObjectURL(blob);
  const header = new Image();
  header.src = url;
  const isPicture = await new Promise((resolve) => {
    header.onload = () => resolve(true); // its size is known; nothing is decoded yet
    header.onerror = () => resolve(false);
  });
  URL.revokeObjectURL(url);
  const [width, height] = [header.naturalWidth, header.naturalHeight];
  if (isPicture && width * height > MAX_PIXELS) {
    throw new Refused(`${name} has ${number(width)} × ${number(height)} pixels, more than the limit of ${number(MAX_PIXELS)}: shrink it or cut out the scan.`);
  }
  if (isPicture && Math.min(width, height) < MIN_SIDE) {
    throw new Refused(`${name} has ${width} × ${height} pixels, but each side needs at least ${MIN_SIDE}: choose a larger picture.`);
  }
  const bitmap = await (isPicture && createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(() => null));
  if (!bitmap) throw new Refused(`${name} is not a picture that this browser can read: save it as PNG or JPEG.`);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const image = toGrey(data, bitmap.height, bitmap.width);
  if (image.pixels.every((level) => level === image.pixels[0])) {
    throw new Refused(`${name} shows one flat grey: if it looks right elsewhere, save it as an 8-bit PNG or JPEG.`);
  }
  return image;
}

/** The network as a function from a square to its map, loaded once. */
async function loadNetwork() {
  ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
  const about = await (await fetch("network.json")).json();
  showSamples(about);
  const session = await ort.InferenceSession.create("network.onnx");
  const side = about.size;
  const run = async (values) => {
    const input = new ort.Tensor("float32", values, [1, side, side, 1]);
    return (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]].data;
  };
  return { about, run };
}

const network = loadNetwork();
let shown = null; // image, spacing, map, grey square
let turn = 0; // counts requests: the answer to an older one is dropped

/** Segment a picture, given as a file or an address, and show the answer, or say why there is none. */
async function show(source, name, spacing, button = null, scroll = true) {
  const mine = ++turn;
  for (const other of part("samples").querySelectorAll("button")) other.ariaPressed = String(other === button);
  part("error").hidden = true;
  part("status").textContent = `Segmenting ${name} …`;
  try {
    const image = await read(source instanceof Blob ? source : await (await fetch(source)).blob(), name);
    const { about, run } = await network;
    const start = performance.now();
    const map = await probability(image, about, run);
    if (mine !== turn) return;
    const seconds = (performance.now() - start) / 1000;
    shown = { image, map, spacing, grey: square(image, CLUSTER_SIDE), minArea: about.min_area };
    part("answer").hidden = false;
    update();
    if (scroll && innerWidth <= 700) part("answer").scrollIntoView(); // it stands below everything else
    part("status").textContent = `${name}, ${image.width} × ${image.height} pixels: segmented on this device in ${seconds.toFixed(2)} s.`;
  } catch (error) {
    if (mine !== turn) return;
    const known = error instanceof Refused;
    part("status").textContent = "";
    part("error").textContent = known ? error.message : "The network could not be loaded: check the connection and reload the page.";
    part("error").hidden = false;
    if (!known) console.error(error);
  }
}

// -- drawing --------------------------------------------------------------------------------------------------

/** Masks, pictures, numbers and words for the sliders' present values. */
function update() {
  const { image, map, spacing, grey, minArea } = shown;
  const { height, width } = image;
  const threshold = Number(part("threshold").value);
  const k = Number(part("k").value);
  document.querySelector("output[for=threshold]").value = threshold.toFixed(2);
  document.querySelector("output[for=k]").value = k;

  const unet = maskOf(map, height, width, threshold, minArea);
  if (shown.clustered?.k !== k) shown.clustered = { k, ...clusters(grey, k, height, width) };
  const { cluster, centres, darkest } = shown.clustered;

  const ORANGE_PIXEL = pixel(...ORANGE);
  draw("unet", (i) => GREY[image.pixels[i]], unet, CYAN);
  draw("map", (i) => VIRIDIS[Math.round(255 * map[i])], unet, WHITE);
  draw("clusters", (i) => (darkest[i] ? ORANGE_PIXEL : GREY[Math.round(centres[cluster[image.pixels[i]]])]));
  draw("differences", (i) => {
    const table = unet[i] ? (darkest[i] ? WHITE_TINT : CYAN_TINT) : darkest[i] ? ORANGE_TINT : GREY;
    return table[image.pixels[i]];
  });

  const found = [measure(unet, height, width, spacing), measure(darkest, height, width, spacing)];
  const lines = [
    ["Area (pixels)", (row) => number(row.area)],
    ["Share of the image", (row) => `${number(100 * row.share, 1)} %`],
    ["Longest axis (pixels)", (row) => number(row.axis)],
    ["Area (mm²)", (row) => number(row.areaMm2, 1), "mm"],
    ["Longest axis (mm)", (row) => number(row.axisMm, 1), "mm"],
  ].filter(([, , needs]) => !needs || spacing);
  part("rows").replaceChildren(...lines.map(([title, value]) => {
    const line = document.createElement("tr");
    const head = Object.assign(document.createElement("th"), { scope: "row", textContent: title });
    line.append(head, ...found.map((row) => Object.assign(document.createElement("td"), { textContent: value(row) })));
    return line;
  }));

  const size = spacing ? `, ${number(found[0].axisMm, 1)} mm across` : "";
  const words = found[0].area
    ? `The U-Net marks ${number(100 * found[0].share, 1)} % of the image${size}.`
    : "The U-Net marks nothing. That does not mean that nothing is there.";
  const both = found[0].area && found[1].area ? ` The two overlap with a Dice of ${dice(unet, darkest).toFixed(2)}.` : "";
  part("summary").textContent = `${words} K-Means marks ${number(100 * found[1].share, 1)} %.${both}`;
  part("unet").ariaLabel = `The image with ${found[0].area ? "the contour" : "no contour"} of the U-Net`;
  part("map").ariaLabel = `Probability map of the U-Net, with its contour at ${threshold}`;
  part("clusters").ariaLabel = `The image in ${k} grey levels, the darkest cluster in orange`;
  part("differences").ariaLabel = "What only the U-Net, only K-Means, or both mark";
}

/** K-Means on an image's square, and the mask of the darkest cluster at the image's own size. */
function clusters(grey, k, height, width) {
  const { cluster, centres } = kMeans(grey, k);
  const share = resize(grey.map((level) => cluster[level] === 0), [CLUSTER_SIDE, CLUSTER_SIDE], [height, width]);
  return { cluster, centres, darkest: new Uint8Array(share.length).map((_, i) => share[i] >= 0.5) };
}

/** Draw a panel: the colour of each pixel, and on it, if given, the contour of a mask, which runs between pixels. */
function draw(id, colourOf, mask, line) {
  const { height, width } = shown.image;
  const pixels = new Int32Array(width * height).map((_, i) => colourOf(i));
  const whole = new OffscreenCanvas(width, height);
  whole.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
  const scale = SHOWN_SIDE / Math.max(width, height);
  const canvas = Object.assign(part(id), { width: Math.round(width * scale), height: Math.round(height * scale) });
  const context = canvas.getContext("2d");
  context.drawImage(whole, 0, 0, canvas.width, canvas.height);
  if (!mask) return;
  const edge = (c, r, right, down) => (context.moveTo(c, r), context.lineTo(c + right, r + down));
  context.save();
  context.scale(canvas.width / width, canvas.height / height);
  context.beginPath();
  for (let i = 0, r = 0; r < height; r++) {
    for (let c = 0; c < width; c++, i++) {
      if (c + 1 < width && mask[i] !== mask[i + 1]) edge(c + 1, r, 0, 1);
      if (r + 1 < height && mask[i] !== mask[i + width]) edge(c, r + 1, 1, 0);
    }
  }
  context.restore(); // the line is as wide in every image
  Object.assign(context, { lineWidth: 4, lineCap: "round", strokeStyle: `rgb(${line})` });
  context.stroke();
}

// -- what the visitor does ------------------------------------------------------------------------------------

function showSamples({ samples, weights, threshold }) {
  part("weights").textContent = weights;
  part("threshold").value = threshold;
  for (const [at, { file, label, spacing }] of samples.entries()) {
    const item = part("samples").appendChild(document.createElement("li"));
    const button = item.appendChild(Object.assign(document.createElement("button"), { type: "button" }));
    button.append(Object.assign(new Image(), { src: file, alt: "" }), `${at + 1}: ${label}`);
    button.ariaLabel = `Simulated image ${at + 1}, ${label}`;
    button.onclick = () => show(file, `Simulated image ${at + 1}`, spacing, button);
  }
  if (!turn) show(samples[0].file, "Simulated image 1", samples[0].spacing, part("samples").querySelector("button"), false);
}

function open(file) {
  const side = Number(part("spacing").value);
  if (file) show(file, file.name, side > 0 ? [side, side] : null);
}

part("file").onchange = ({ target }) => {
  open(target.files[0]);
  target.value = ""; // the same file can be chosen again
};
for (const type of ["dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault(); // or the browser leaves the page for the picture
    part("drop").classList.toggle("over", type === "dragover");
    if (type === "drop") open(event.dataTransfer.files[0]);
  });
}
let waiting = false;
function updateSoon() {
  if (waiting || !shown) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    update();
  });
}
part("threshold").oninput = part("k").oninput = updateSoon;
part("spacing").oninput = ({ target }) => {
  const side = Number(target.value);
  if (shown) shown.spacing = side > 0 ? [side, side] : null;
  updateSoon();
};

// Last, so that the worker finds what the page fetched in the browser's cache.
network.then(() => navigator.serviceWorker?.register("worker.js"), () => {});
