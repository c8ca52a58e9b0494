/**
 * From grey levels to a mask and its measurements: what busutils/models/runtimes.py describes, step by step.
 * An image is { pixels, height, width } with one grey level (0 to 255) a pixel, row by row; a map or a mask is an array
 * of as many values. Nothing here knows of the page or of ONNX Runtime: a network is a function from a square to a map.
 */

/** Step 1. Grey image of RGBA bytes: luma (ITU-R 601) in whole numbers; transparency is ignored. */
export function toGrey(rgba, height, width) {
  const pixels = new Uint8Array(height * width);
  for (let i = 0, j = 0; i < pixels.length; i++, j += 4) {
    pixels[i] = (rgba[j] * 19595 + rgba[j + 1] * 38470 + rgba[j + 2] * 7471 + 0x8000) >> 16;
  }
  return { pixels, height, width };
}

/** For each new pixel of an axis: the first old one that it takes from, and the share of that and of those after it. */
function shares(from, to) {
  const step = from / to;
  return Array.from({ length: to }, (_, i) => {
    if (to >= from) {
      const centre = Math.min(Math.max((i + 0.5) * step - 0.5, 0), from - 1);
      const first = Math.min(Math.floor(centre), Math.max(from - 2, 0));
      return { first, share: from === 1 ? [1] : [1 - (centre - first), centre - first] };
    }
    const first = Math.floor(i * step);
    const last = Math.min(Math.ceil((i + 1) * step - 1e-9), from);
    const covered = [];
    for (let c = first; c < last; c++) covered.push(Math.min(c + 1, (i + 1) * step) - Math.max(c, i * step));
    const sum = covered.reduce((a, b) => a + b);
    return { first, share: covered.map((value) => value / sum) };
  });
}

/** Resize `lines` rows, or as many columns, from one length to another. */
function resizeLines(values, from, to, lines, columns) {
  const [step, next, newNext] = columns ? [lines, 1, 1] : [1, from, to]; // to the next pixel of a line, to the next line
  const resized = new Float32Array(to * lines);
  shares(from, to).forEach(({ first, share }, i) => {
    for (let line = 0; line < lines; line++) {
      let sum = 0;
      for (let k = 0; k < share.length; k++) sum += share[k] * values[line * next + (first + k) * step];
      resized[line * newNext + i * step] = sum;
    }
  });
  return resized;
}

/** Steps 2 and 5. Resize a map, axis by axis: covered area where it shrinks, linear where it grows. */
export function resize(values, [height, width], [newHeight, newWidth]) {
  const across = (part, lines) => resizeLines(part, width, newWidth, lines, false);
  const down = (part, lines) => resizeLines(part, height, newHeight, lines, true);
  return newHeight > height ? down(across(values, height), newWidth) : across(down(values, width), newHeight);
}

/** Step 2. The square that a method works on, in whole grey levels (halves go to the even one). */
export function square({ pixels, height, width }, size) {
  return Uint8Array.from(resize(pixels, [height, width], [size, size]), (value) => {
    const floor = Math.floor(value);
    return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
  });
}

/** Steps 2 to 5. Probability of each pixel; `network` computes the map of one square, given as Float32Array. */
export async function probability(image, { size, tta }, network) {
  const small = Float32Array.from(square(image, size));
  let map = await network(small);
  if (tta === "mirror") {
    const other = mirror(await network(mirror(small, size)), size);
    map = map.map((value, i) => (value + other[i]) / 2);
  }
  return resize(map, [size, size], [image.height, image.width]);
}

function mirror(values, size) {
  return values.map((_, i) => values[i - (i % size) + size - 1 - (i % size)]);
}

/** Step 6. Threshold, fill holes, drop regions below `minArea` (a share of the image). */
export function maskOf(map, height, width, threshold, minArea) {
  const mask = new Uint8Array(map.length);
  for (let i = 0; i < mask.length; i++) mask[i] = map[i] >= Math.fround(threshold);
  const ground = regions(mask, height, width, 0, false);
  const hole = new Uint8Array(ground.sizes.length).fill(1); // unless that region of the background reaches the border
  for (let r = 0; r < height; r++) hole[ground.labels[r * width]] = hole[ground.labels[r * width + width - 1]] = 0;
  for (let c = 0; c < width; c++) hole[ground.labels[c]] = hole[ground.labels[(height - 1) * width + c]] = 0;
  for (let i = 0; i < mask.length; i++) mask[i] ||= hole[ground.labels[i]];
  const found = regions(mask, height, width, 1, true);
  for (let i = 0; i < mask.length; i++) mask[i] &&= found.sizes[found.labels[i]] >= minArea * mask.length;
  return mask;
}

/** Number the connected parts of a mask where it equals `value`, from 1; with `corners`, pixels that touch there are connected. */
function regions(mask, height, width, value, corners) {
  const labels = new Int32Array(mask.length);
  const sizes = [0];
  const stack = [];
  const visit = (i) => {
    if (mask[i] !== value || labels[i]) return;
    labels[i] = sizes.length;
    stack.push(i);
  };
  for (let start = 0; start < mask.length; start++) {
    visit(start);
    let size = 0;
    for (; stack.length; size++) {
      const i = stack.pop();
      const [left, right] = [i % width > 0, i % width < width - 1];
      if (left) visit(i - 1);
      if (right) visit(i + 1);
      for (const j of [i - width, i + width]) {
        if (j < 0 || j >= mask.length) continue;
        visit(j);
        if (corners && left) visit(j - 1);
        if (corners && right) visit(j + 1);
      }
    }
    if (size) sizes.push(size);
  }
  return { labels, sizes };
}

/**
 * K-Means on grey levels: cluster of each of the 256 levels, and mean of each cluster, from dark to bright. In one dimension
 * clusters are intervals, so that the best of all partitions is found level by level, without a random start.
 */
export function kMeans(pixels, k) {
  const counts = Array(256).fill(0);
  for (const level of pixels) counts[level]++;
  const used = [...counts.keys()].filter((level) => counts[level]);
  const sums = [[0, 0, 0]]; // of the first levels: their pixels, and those times level and level squared
  for (const level of used) sums.push(sums.at(-1).map((sum, power) => sum + counts[level] * level ** power));
  const mean = (i, j) => (sums[j][1] - sums[i][1]) / (sums[j][0] - sums[i][0]);
  const cost = (i, j) => sums[j][2] - sums[i][2] - mean(i, j) * (sums[j][1] - sums[i][1]); // of levels i … j - 1 as one cluster
  let best = sums.map((_, j) => ({ total: j ? cost(0, j) : Infinity, starts: [0] })); // of the first j levels
  for (let clusters = 2; clusters <= Math.min(k, used.length); clusters++) {
    best = best.map((_, j) => {
      let [total, from] = [Infinity, 0];
      for (let i = clusters - 1; i < j; i++) {
        const sum = best[i].total + cost(i, j);
        if (sum < total) [total, from] = [sum, i];
      }
      return { total, starts: [...best[from].starts, from] };
    });
  }
  const { starts } = best.at(-1);
  const centres = starts.map((start, i) => mean(start, starts[i + 1] ?? used.length));
  const cluster = Uint8Array.from(counts, (_, level) => starts.filter((start) => start && used[start] <= level).length);
  return { cluster, centres };
}

/** Area and longest axis (a straight line across the largest region, from border to border) in pixels and, where known, mm. */
export function measure(mask, height, width, spacing = null) {
  const { labels, sizes } = regions(mask, height, width, 1, true);
  const area = sizes.reduce((sum, size) => sum + size);
  const largest = sizes.reduce((best, size, label) => (size > sizes[best] ? label : best), 0);
  const inside = (r, c) => r >= 0 && r < height && c >= 0 && c < width && labels[r * width + c] === largest;
  const points = []; // the middles of the region's outer edges, row by row
  for (let i = 0; area && i < labels.length; i++) {
    if (labels[i] !== largest) continue;
    const [r, c] = [Math.floor(i / width), i % width];
    for (const [dy, dx] of SIDES) if (!inside(r + dy, c + dx)) points.push([r + dy / 2, c + dx / 2]);
  }
  const corners = hull(points);
  const axis = (dy, dx) => {
    let longest = 0;
    for (const [r, c] of corners) for (const [s, d] of corners) longest = Math.max(longest, Math.hypot((r - s) * dy, (c - d) * dx));
    return longest;
  };
  const millimetres = spacing && { areaMm2: area * spacing[0] * spacing[1], axisMm: axis(...spacing) };
  return { area, share: area / mask.length, axis: axis(1, 1), ...millimetres };
}

const SIDES = [[-1, 0], [0, -1], [0, 1], [1, 0]];

/** Corners of the convex hull of points (Andrew's monotone chain). */
function hull(points) {
  points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turns = ([r, c], [s, d], [t, e]) => (s - r) * (e - c) - (d - c) * (t - r) > 0;
  const half = (sorted) => {
    const kept = [];
    for (const point of sorted) {
      while (kept.length > 1 && !turns(kept.at(-2), kept.at(-1), point)) kept.pop();
      kept.push(point);
    }
    return kept;
  };
  return [...half(points), ...half(points.toReversed())];
}

/** Dice of two masks; NaN where both are empty. */
export function dice(a, b) {
  let [both, sum] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    both += a[i] & b[i];
    sum += a[i] + b[i];
  }
  return (2 * both) / sum;
}
