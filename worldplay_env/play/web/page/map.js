// The map: paths from above, headings, the frames in memory, the bookmark.

const PATHS = ["#7dd3fc", "#f9a8d4"];
const MARGIN = 28;

export function drawMap(canvas, walks) {
  canvas.hidden = !walks.length;
  if (!walks.length) return;
  const context = canvas.getContext("2d");
  const side = canvas.width;
  const at = fitted(walks, side);
  const dot = (place, radius, colour) => {
    context.fillStyle = colour;
    context.beginPath();
    context.arc(...at(place), radius, 0, 2 * Math.PI);
    context.fill();
  };
  context.clearRect(0, 0, side, side);
  walks.forEach((walk, panel) => {
    context.strokeStyle = PATHS[panel % PATHS.length];
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.beginPath();
    walk.path.forEach((place) => context.lineTo(...at(place)));
    context.stroke();
    for (const place of walk.remembered) dot(place, 5, "#fb923c");
    if (walk.bookmark) dot(walk.bookmark, 7, "#facc15");
    context.save();
    context.translate(...at(walk.path.at(-1)));
    context.rotate(Math.atan2(walk.heading[0], walk.heading[1]));
    context.fillStyle = walks.length === 1 ? "#f4f4f5" : PATHS[panel % PATHS.length];
    context.beginPath();
    [[0, -12], [9, 10], [-9, 10]].forEach((corner) => context.lineTo(...corner));
    context.fill();
    context.restore();
  });
  const [right, ahead] = walks[0].path.at(-1);
  canvas.setAttribute("aria-label", `Map: ${right.toFixed(1)} to the right, ${ahead.toFixed(1)} ahead of the start`);
}

// Return a function from a place to pixels, with all of the walks in sight.
function fitted(walks, side) {
  const places = walks.flatMap((walk) => [...walk.path, ...(walk.bookmark ? [walk.bookmark] : [])]);
  const low = [0, 1].map((axis) => Math.min(...places.map((place) => place[axis])));
  const high = [0, 1].map((axis) => Math.max(...places.map((place) => place[axis])));
  const scale = (side - 2 * MARGIN) / Math.max(1, high[0] - low[0], high[1] - low[1]);
  return ([right, ahead]) => [
    side / 2 + (right - (low[0] + high[0]) / 2) * scale,
    side / 2 - (ahead - (low[1] + high[1]) / 2) * scale,
  ];
}
