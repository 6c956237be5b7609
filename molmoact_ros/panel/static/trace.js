// A trace: two to five points [right, down] in fractions of the picture. Pure functions.

export const MOST = 5;
const NEAR = 0.01; // of the picture's width: a stroke this near to its line needs no further point

// Of a stroke, the points that it cannot do without. Up to five are all kept. Of more, the ends are; then, again and again, the point
// that lies farthest from the line so far, until none is farther off than NEAR, or there are five.
export function simplified(stroke, aspect) {
  if (stroke.length <= MOST) return stroke.map(inside);
  const at = stroke.map(([x, y]) => [x, y / aspect]);
  const kept = [0, stroke.length - 1];
  while (kept.length < MOST) {
    let [worst, where] = [NEAR, -1];
    for (let k = 1; k < kept.length; k++) {
      for (let i = kept[k - 1] + 1; i < kept[k]; i++) {
        const off = distance(at[i], at[kept[k - 1]], at[kept[k]]);
        if (off > worst) [worst, where] = [off, i];
      }
    }
    if (where < 0) break;
    kept.push(where);
    kept.sort((a, b) => a - b);
  }
  return kept.map((i) => inside(stroke[i]));
}

export function inside([x, y]) {
  return [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))];
}

// Length, in picture widths.
export function length(points, aspect) {
  let sum = 0;
  for (let i = 1; i < points.length; i++) {
    sum += Math.hypot(points[i][0] - points[i - 1][0], (points[i][1] - points[i - 1][1]) / aspect);
  }
  return sum;
}

function distance([x, y], [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const share = dx || dy ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy))) : 0;
  return Math.hypot(x - ax - share * dx, y - ay - share * dy);
}
