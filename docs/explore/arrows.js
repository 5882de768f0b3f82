// The arithmetic of part 2, and of lesson 02: a few neurons, each of which writes one arrow.
//
// Neuron i writes the arrow a_i. All that errors need are the inner products G_ij = <a_i, a_j>:
//
//     energy_i = G_ii        price_i = what the best factors of the others leave of a_i
//     condition_i^2 = energy_i / price_i
//
// If neuron i goes and the others get the factors m, the error is (1 - m)' G (1 - m), with m_i = 0.

const DEPENDENT = 1e-12; // the part of an arrow's energy below which the arrows before it reproduce it

/** G (n, n) of arrows, each a list of numbers. */
export function gramOfArrows(arrows) {
  return arrows.map((left) => arrows.map((right) => innerProduct(left, right)));
}

function innerProduct(left, right) {
  return left.reduce((total, value, index) => total + value * right[index], 0);
}

/**
 * The factors u_K for which the sum of u_k a_k is as near to the sum of all removed arrows as it can be, and what is
 * left of these. `removed`: numbers of the neurons that go. A kept arrow that those before it reproduce gets 0.
 */
export function refitOf(gram, removed) {
  const kept = gram.map((_, index) => index).filter((index) => !removed.includes(index));
  const factors = gram.map((_, index) => (removed.includes(index) ? 0 : 1));
  // Gauss-Jordan elimination of G_KK u = G_KR 1, on rows [G_kK | G_kR 1].
  const rows = kept.map((row) => [...kept.map((column) => gram[row][column]), sumOver(gram[row], removed)]);
  const pivots = [];
  for (let index = 0; index < kept.length; index += 1) {
    const pivot = rows[index][index];
    if (pivot <= DEPENDENT * gram[kept[index]][kept[index]]) {
      continue;
    }
    pivots.push(index);
    rows[index] = rows[index].map((value) => value / pivot);
    for (let other = 0; other < kept.length; other += 1) {
      if (other !== index) {
        const share = rows[other][index];
        rows[other] = rows[other].map((value, column) => value - share * rows[index][column]);
      }
    }
  }
  for (const index of pivots) {
    factors[kept[index]] += rows[index][kept.length];
  }
  return { factors, error: errorOf(gram, factors) };
}

function sumOver(row, columns) {
  return columns.reduce((total, column) => total + row[column], 0);
}

/** (1 - m)' G (1 - m): the squared length of what is lost with the factors m. */
export function errorOf(gram, factors) {
  const lost = factors.map((factor) => 1 - factor);
  const total = gram.reduce((sum, row, index) => sum + lost[index] * innerProduct(row, lost), 0);
  return Math.max(0, total);
}

/** Energy, price and condition of each neuron. A neuron that the others reproduce has the condition Infinity. */
export function worthOf(gram) {
  return gram.map((row, index) => {
    const energy = row[index];
    const { error } = refitOf(gram, [index]);
    const price = error <= DEPENDENT * energy ? 0 : error;
    const condition = energy === 0 ? 1 : Math.sqrt(Math.max(1, energy / price));
    return { energy, price, condition };
  });
}

/** The neuron that each rule removes: the smallest energy, the highest condition, the smallest price. */
export function choicesOf(worth) {
  return {
    energy: smallest(worth.map(({ energy }) => energy)),
    condition: smallest(worth.map(({ condition }) => -condition)),
    price: smallest(worth.map(({ price }) => price)),
  };
}

/** The first of the smallest values; values that differ by rounding only are equal. */
function smallest(values) {
  const least = Math.min(...values);
  return values.findIndex((value) => value === least || value - least <= 1e-9 * Math.abs(least));
}
