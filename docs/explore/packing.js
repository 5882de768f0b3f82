// Numbers as the page carries them: base64 of little-endian half or single precision.

/** The bytes that a base64 text stands for. */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** The numbers that bytes of half precision stand for: 1 sign, 5 exponent and 10 fraction bits each. */
export function halvesOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float64Array.from({ length: bytes.byteLength / 2 }, (_, index) => numberOfHalf(view.getUint16(2 * index, true)));
}

function numberOfHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) {
    return sign * fraction * 2 ** -24;
  }
  if (exponent === 0x1f) {
    return fraction ? NaN : sign * Infinity;
  }
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** A symmetric matrix (n, n) with ones on its diagonal, from the numbers above the diagonal, row after row. */
export function fullFromTriangle(triangle, size) {
  const matrix = new Float64Array(size * size);
  let position = 0;
  for (let row = 0; row < size; row += 1) {
    matrix[row * size + row] = 1;
    for (let column = row + 1; column < size; column += 1) {
      matrix[row * size + column] = triangle[position];
      matrix[column * size + row] = triangle[position];
      position += 1;
    }
  }
  return matrix;
}
