// The outlines of the world, from TopoJSON: coasts and borders are arcs that
// neighbours share, kept as whole numbers, each point relative to the one before.

// world returns rings (of land, to be filled), coasts and borders (to be drawn as
// lines), each a list of [longitude, latitude] in degrees.
export function world(topology) {
  const { scale, translate } = topology.transform;
  const arcs = topology.arcs.map((arc) => {
    let x = 0;
    let y = 0;
    return arc.map(([dx, dy]) => {
      x += dx;
      y += dy;
      return [x * scale[0] + translate[0], y * scale[1] + translate[1]];
    });
  });
  const coast = new Set();
  const ring = (indexes) => indexes.flatMap((index, i) => {
    // the complement of an index is the same arc, walked backwards
    const arc = index < 0 ? arcs[~index].toReversed() : arcs[index];
    coast.add(index < 0 ? ~index : index);
    return i === 0 ? arc : arc.slice(1); // its first point is the last one's end
  });
  const rings = polygons(topology.objects.land).flatMap((polygon) => polygon.map(ring));
  return {
    rings,
    coasts: arcs.filter((_, i) => coast.has(i)),
    borders: arcs.filter((_, i) => !coast.has(i)),
  };
}

function polygons(object) {
  switch (object.type) {
    case 'Polygon': return [object.arcs];
    case 'MultiPolygon': return object.arcs;
    case 'GeometryCollection': return object.geometries.flatMap(polygons);
    default: return [];
  }
}
