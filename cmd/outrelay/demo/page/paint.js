// What the pictures share: colours, sizes, and a canvas that follows its element.

const style = getComputedStyle(document.documentElement);

// colour reads one of the colours of style.css.
export const colour = (name) => style.getPropertyValue(`--${name}`).trim();

// radius of an event's disc in CSS pixels: from a dot at magnitude 0 to a hand's
// breadth at 6 and more, each step half as large again.
export const radius = (magnitude) => Math.max(.8, 1.05 * 1.5 ** Math.max(magnitude, -1));

// fit calls draw(width, height) with the canvas scaled to CSS pixels whenever its
// element changes size, and once at the beginning.
export function fit(canvas, draw) {
  new ResizeObserver(() => {
    const { width, height } = canvas.getBoundingClientRect();
    const ratio = devicePixelRatio;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    canvas.getContext('2d').setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(width, height);
  }).observe(canvas);
}

// layer is a canvas of the same size and scale that is not on the page.
export function layer(canvas) {
  const copy = document.createElement('canvas');
  copy.width = canvas.width;
  copy.height = canvas.height;
  const context = copy.getContext('2d');
  context.setTransform(canvas.getContext('2d').getTransform());
  return context;
}

// put draws a layer onto the canvas, pixel by pixel.
export function put(context, from) {
  context.save();
  context.resetTransform();
  context.drawImage(from.canvas, 0, 0);
  context.restore();
}
