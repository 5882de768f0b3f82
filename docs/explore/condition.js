// The arithmetic of part 3: what comp_lib/importance/matrix_condition.py does, in double precision.
//
// A layer has n neurons and writes y = X W. The page has R (n, n), the Gram matrix of the inputs with each input divided
// by its own length, so that its diagonal is 1, and W (n, m), each row multiplied by that length. This changes no error
// and no price: they do not depend on the units of an input. The ridge is lambda times the diagonal, so here
// H = R + lambda I. With P = H^-1:
//
//     energy_i = |w_i|^2        price_i = |v_i|^2 / P_ii
//
// Matrices are Float64Arrays, row after row. Removing the inputs R changes the weights V and P of the others by
//
//     V_K = V_K - P_KR (P_RR)^-1 V_R        P_KK = P_KK - P_KR (P_RR)^-1 P_RK

/** The sum of left[i] right[i] over `count` numbers, from two places in two matrices. */
function dot(left, leftStart, right, rightStart, count) {
  let first = 0;
  let second = 0;
  let third = 0;
  let fourth = 0;
  let index = 0;
  for (; index + 3 < count; index += 4) {
    first += left[leftStart + index] * right[rightStart + index];
    second += left[leftStart + index + 1] * right[rightStart + index + 1];
    third += left[leftStart + index + 2] * right[rightStart + index + 2];
    fourth += left[leftStart + index + 3] * right[rightStart + index + 3];
  }
  for (; index < count; index += 1) {
    first += left[leftStart + index] * right[rightStart + index];
  }
  return first + second + third + fourth;
}

/**
 * The inverse (n, n) of a symmetric positive definite matrix, by its Cholesky factor. The matrix stays as it is.
 * `progress(done)` is called with a share from 0 to 1.
 */
export function inverseOf(matrix, size, progress = () => {}) {
  const factor = new Float64Array(size * size); // L, the lower triangle
  for (let row = 0; row < size; row += 1) {
    const start = row * size;
    for (let column = 0; column < row; column += 1) {
      const rest = matrix[start + column] - dot(factor, start, factor, column * size, column);
      factor[start + column] = rest / factor[column * size + column];
    }
    const rest = matrix[start + row] - dot(factor, start, factor, start, row);
    if (!(rest > 0)) {
      throw new RangeError(`expected a positive definite matrix, got ${rest} in row ${row}`);
    }
    factor[start + row] = Math.sqrt(rest);
    progress((0.33 * row) / size);
  }
  const columns = new Float64Array(size * size); // row j has column j of L^-1
  for (let column = 0; column < size; column += 1) {
    const start = column * size;
    columns[start + column] = 1 / factor[start + column];
    for (let row = column + 1; row < size; row += 1) {
      const total = dot(factor, row * size + column, columns, start + column, row - column);
      columns[start + row] = -total / factor[row * size + row];
    }
    progress(0.33 + (0.33 * column) / size);
  }
  const inverse = factor; // L is not needed any more
  for (let row = 0; row < size; row += 1) {
    for (let column = row; column < size; column += 1) {
      const value = dot(columns, row * size + column, columns, column * size + column, size - column);
      inverse[row * size + column] = value;
      inverse[column * size + row] = value;
    }
    progress(0.66 + (0.34 * row) / size);
  }
  return inverse;
}

/** |w_i|^2 of the rows (n, m) of a matrix. */
export function squaredRows(matrix, rows, columns) {
  return Float64Array.from({ length: rows }, (_, row) => dot(matrix, row * columns, matrix, row * columns, columns));
}

/**
 * Removes neurons in rounds, and refits the others after each round.
 *
 * inverse: P (n, n), which stays as it is. weights: W (n, m). remove: how many go. perRound: how many in one round.
 * ridge: lambda. order: the neurons that go, first to last, or null: the smallest prices go, found anew each round.
 *
 * Returns { order, counts, errors, dataErrors, prices }: errors have the ridge's penalty in them, dataErrors have not,
 * and prices are those before the first round.
 */
export function sweep({ inverse, weights, size, outputs, remove, perRound, ridge, order = null, progress = () => {} }) {
  let members = Int32Array.from({ length: size }, (_, index) => index);
  const matrix = Float64Array.from(inverse); // rows of `members` only, each with as many columns
  const refitted = Float64Array.from(weights);
  const prices = pricesIn(matrix, refitted, size, outputs);
  const result = { order: [], counts: [], errors: [], dataErrors: [], prices };
  let error = 0;
  let penaltyOfGone = 0; // of the neurons that went, lambda |w_i|^2 each
  let current = prices;
  while (result.order.length < remove) {
    const count = Math.min(perRound, remove - result.order.length);
    const alive = members.length;
    const chosen = order ? placesOf(order, result.order.length, count, members, size) : smallestPlaces(current, count);
    const gone = chosen.map((place) => members[place]);
    const { inner, shift, rows } = roundOf(matrix, refitted, alive, outputs, chosen);
    chosen.forEach((place, row) => {
      error += dot(refitted, place * outputs, shift, row * outputs, outputs);
    });
    for (const neuron of gone) {
      penaltyOfGone += ridge * dot(weights, neuron * outputs, weights, neuron * outputs, outputs);
    }
    members = removeFrom(matrix, refitted, members, outputs, chosen, { inner, shift, rows });
    let penalty = penaltyOfGone;
    for (let place = 0; place < members.length; place += 1) {
      for (let output = 0; output < outputs; output += 1) {
        const movement = weights[members[place] * outputs + output] - refitted[place * outputs + output];
        penalty += ridge * movement * movement;
      }
    }
    result.order.push(...gone);
    result.counts.push(result.order.length);
    result.errors.push(error);
    result.dataErrors.push(Math.max(0, error - penalty));
    current = pricesIn(matrix, refitted, members.length, outputs);
    progress(result.order.length / remove);
  }
  return result;
}

function pricesIn(matrix, refitted, alive, outputs) {
  const squares = squaredRows(refitted, alive, outputs);
  return squares.map((square, place) => square / matrix[place * alive + place]);
}

function smallestPlaces(values, count) {
  const places = Array.from(values.keys());
  places.sort((left, right) => values[left] - values[right] || left - right);
  return places.slice(0, count);
}

function placesOf(order, start, count, members, size) {
  const places = new Int32Array(size);
  members.forEach((neuron, place) => {
    places[neuron] = place;
  });
  return Array.from(order.slice(start, start + count), (neuron) => places[neuron]);
}

/** (P_RR)^-1 (r, r), (P_RR)^-1 V_R (r, m), and P_R with each column as a row (K, r). */
function roundOf(matrix, refitted, alive, outputs, chosen) {
  const count = chosen.length;
  const small = new Float64Array(count * count);
  const rows = new Float64Array(alive * count);
  for (let row = 0; row < count; row += 1) {
    for (let column = 0; column < count; column += 1) {
      small[row * count + column] = matrix[chosen[row] * alive + chosen[column]];
    }
    for (let place = 0; place < alive; place += 1) {
      rows[place * count + row] = matrix[chosen[row] * alive + place];
    }
  }
  const inner = inverseOf(small, count);
  const shift = new Float64Array(count * outputs);
  for (let row = 0; row < count; row += 1) {
    for (let column = 0; column < count; column += 1) {
      const factor = inner[row * count + column];
      for (let output = 0; output < outputs; output += 1) {
        shift[row * outputs + output] += factor * refitted[chosen[column] * outputs + output];
      }
    }
  }
  return { inner, shift, rows };
}

/** Carries a round out: P and V of those that stay, packed closely. Returns the neurons that stay. */
function removeFrom(matrix, refitted, members, outputs, chosen, { inner, shift, rows }) {
  const alive = members.length;
  const count = chosen.length;
  const down = new Float64Array(alive * count); // P_KR (P_RR)^-1
  for (let place = 0; place < alive; place += 1) {
    for (let column = 0; column < count; column += 1) {
      down[place * count + column] = dot(rows, place * count, inner, column * count, count);
    }
  }
  const out = new Set(chosen);
  const stay = Array.from({ length: alive }, (_, place) => place).filter((place) => !out.has(place));
  const left = stay.length;
  // The new matrix is never longer than the part of the old one that was read, so both can be in one array.
  for (let row = 0; row < left; row += 1) {
    const from = stay[row];
    for (let output = 0; output < outputs; output += 1) {
      let change = 0;
      for (let column = 0; column < count; column += 1) {
        change += rows[from * count + column] * shift[column * outputs + output];
      }
      refitted[row * outputs + output] = refitted[from * outputs + output] - change;
    }
    for (let column = 0; column < left; column += 1) {
      matrix[row * left + column] = matrix[from * alive + stay[column]];
    }
  }
  const keptRows = packedRows(rows, stay, count);
  const keptDown = packedRows(down, stay, count);
  subtractProducts(matrix, keptRows, keptDown, left, count);
  return Int32Array.from(stay, (place) => members[place]);
}

function packedRows(values, places, count) {
  const packed = new Float64Array(places.length * count);
  places.forEach((place, row) => packed.set(values.subarray(place * count, (place + 1) * count), row * count));
  return packed;
}

/** matrix (n, n) minus left (n, r) times right (n, r)', which is symmetric: one half is computed, and copied. */
function subtractProducts(matrix, left, right, size, count) {
  for (let row = 0; row < size; row += 2) {
    const pair = Math.min(row + 1, size - 1); // two rows and two columns at a time: four sums in one loop
    for (let column = row; column < size; column += 2) {
      const next = Math.min(column + 1, size - 1);
      let a = 0;
      let b = 0;
      let c = 0;
      let d = 0;
      for (let index = 0; index < count; index += 1) {
        const upper = left[row * count + index];
        const lower = left[pair * count + index];
        const first = right[column * count + index];
        const second = right[next * count + index];
        a += upper * first;
        b += upper * second;
        c += lower * first;
        d += lower * second;
      }
      // All four are read before one is written: in the last row or column of an odd size they are the same numbers.
      const newA = matrix[row * size + column] - a;
      const newB = matrix[row * size + next] - b;
      const newC = matrix[pair * size + column] - c;
      const newD = matrix[pair * size + next] - d;
      matrix[row * size + column] = newA;
      matrix[row * size + next] = newB;
      matrix[pair * size + column] = newC;
      matrix[pair * size + next] = newD;
    }
  }
  for (let row = 0; row < size; row += 1) {
    for (let column = row + 1; column < size; column += 1) {
      matrix[column * size + row] = matrix[row * size + column];
    }
  }
}

/**
 * The prices of all neurons after those of `removed` went and the others were refitted, from P and W of the whole layer:
 * { prices (n), dataError }. The price of a neuron that went is NaN.
 */
export function pricesWithout({ inverse, weights, size, outputs, ridge, removed }) {
  if (removed.length === 0) {
    return { prices: pricesIn(inverse, weights, size, outputs), dataError: 0 };
  }
  const { shift, rows, inner } = roundOf(inverse, weights, size, outputs, removed);
  const count = removed.length;
  const out = new Set(removed);
  const prices = new Float64Array(size);
  let error = 0;
  let penalty = 0;
  const moved = new Float64Array(outputs);
  for (let neuron = 0; neuron < size; neuron += 1) {
    const start = neuron * count;
    let own = inverse[neuron * size + neuron];
    moved.fill(0);
    for (let column = 0; column < count; column += 1) {
      own -= rows[start + column] * dot(rows, start, inner, column * count, count);
      for (let output = 0; output < outputs; output += 1) {
        moved[output] += rows[start + column] * shift[column * outputs + output];
      }
    }
    const first = neuron * outputs;
    if (out.has(neuron)) {
      prices[neuron] = NaN;
      penalty += ridge * dot(weights, first, weights, first, outputs);
      error += dot(weights, first, shift, removed.indexOf(neuron) * outputs, outputs);
    } else {
      const square = moved.reduce((total, change, output) => total + (weights[first + output] - change) ** 2, 0);
      penalty += ridge * dot(moved, 0, moved, 0, outputs);
      prices[neuron] = square / own;
    }
  }
  return { prices, dataError: Math.max(0, error - penalty) };
}

/**
 * The errors if the neurons of `order` go one after the other and nothing is refitted, at each of `counts`.
 * gram: R (n, n). The error is the sum of R_ij <w_i, w_j> over all that went.
 */
export function errorsWithoutRefit({ gram, weights, size, outputs, order, counts }) {
  const errors = [];
  let error = 0;
  for (let done = 0; done < Math.max(...counts); done += 1) {
    const neuron = order[done];
    const start = neuron * outputs;
    let overlap = 0;
    for (let before = 0; before < done; before += 1) {
      overlap += gram[neuron * size + order[before]] * dot(weights, start, weights, order[before] * outputs, outputs);
    }
    error += gram[neuron * size + neuron] * dot(weights, start, weights, start, outputs) + 2 * overlap;
    if (counts.includes(done + 1)) {
      errors.push(Math.max(0, error));
    }
  }
  return errors;
}

/** The energy of the whole output, tr(W' R W). */
export function outputEnergy({ gram, weights, size, outputs }) {
  let energy = 0;
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      energy += gram[row * size + column] * dot(weights, row * outputs, weights, column * outputs, outputs);
    }
  }
  return energy;
}
