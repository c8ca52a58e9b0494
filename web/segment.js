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
  const mask = Uint8Array.from(map, (value) => value >= Math.fround(threshold));
  const ground = regions(mask, height, width, 0, false);
  const open = new Set(); // regions of background that reach the border; others are holes
  for (let r = 0; r < height; r++) open.add(ground.labels[r * width]).add(ground.labels[r * width + width - 1]);
  for (let c = 0; c < width; c++) open.add(ground.labels[c]).add(ground.labels[(height - 1) * width + c]);
  ground.labels.forEach((label, i) => (mask[i] = label === 0 || !open.has(label)));
  const found = regions(mask, height, width, 1, true);
  return mask.map((_, i) => found.labels[i] > 0 && found.sizes[found.labels[i]] >= minArea * mask.length);
}

/** Number the connected parts of a mask where it equals `value`, from 1; `corners`: pixels that touch there are connected. */
function regions(mask, height, width, value, corners) {
  const labels = new Int32Array(mask.length);
  const sizes = [0];
  const stack = [];
  for (let start = 0; start < mask.length; start++) {
    if (mask[start] !== value || labels[start]) continue;
    labels[start] = sizes.length;
    stack.push(start);
    let size = 0;
    while (stack.length) {
      const i = stack.pop();
      const row = Math.floor(i / width);
      const column = i % width;
      size++;
      for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, height - 1); r++) {
        for (let c = Math.max(column - 1, 0); c <= Math.min(column + 1, width - 1); c++) {
          const j = r * width + c;
          if (mask[j] !== value || labels[j] || (!corners && r !== row && c !== column)) continue;
          labels[j] = sizes.length;
          stack.push(j);
        }
      }
    }
    sizes.push(size);
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
  const area = mask.reduce((sum, value) => sum + value, 0);
  const row = { area, share: area / mask.length, axis: 0, areaMm2: null, axisMm: null };
  if (spacing) row.areaMm2 = area * spacing[0] * spacing[1];
  if (!area) return row;
  const { labels, sizes } = regions(mask, height, width, 1, true);
  const largest = sizes.indexOf(sizes.reduce((a, b) => Math.max(a, b)));
  const rows = Array.from({ length: height }, () => [Infinity, -Infinity]); // first and last column in each row
  const columns = Array.from({ length: width }, () => [Infinity, -Infinity]);
  const stretch = (span, at) => ((span[0] = Math.min(span[0], at)), (span[1] = Math.max(span[1], at)));
  labels.forEach((label, i) => {
    if (label !== largest) return;
    const [r, c] = [Math.floor(i / width), i % width];
    stretch(rows[r], c);
    stretch(columns[c], r);
  });
  const points = [
    ...rows.flatMap(([left, right], r) => (left <= right ? [[r, left - 0.5], [r, right + 0.5]] : [])),
    ...columns.flatMap(([top, bottom], c) => (top <= bottom ? [[top - 0.5, c], [bottom + 0.5, c]] : [])),
  ];
  const across = (dy, dx) => {
    let longest = 0;
    for (const [r, c] of points) {
      for (const [s, d] of points) longest = Math.max(longest, ((r - s) * dy) ** 2 + ((c - d) * dx) ** 2);
    }
    return Math.sqrt(longest);
  };
  row.axis = across(1, 1);
  if (spacing) row.axisMm = across(...spacing);
  return row;
}

/** Dice of two masks; NaN where both are empty. */
export function dice(a, b) {
  const both = a.reduce((sum, value, i) => sum + (value & b[i]), 0);
  return (2 * both) / (a.reduce((s, v) => s + v, 0) + b.reduce((s, v) => s + v, 0));
}
