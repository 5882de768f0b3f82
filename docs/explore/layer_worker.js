// The worker of part 3: it unpacks the matrix, inverts it and lets three orders race, while the page stays alive.
//
// It is given { kind: "start", gram, weights, size, outputs, ridge, perRound, fewest, randomOrder }, gram and weights as
// bytes, and answers "progress", then "ready" with the prices, then one "curve" after the other, then "done". After "ready"
// it also answers { kind: "remove", removed } by "prices".

import { errorsWithoutRefit, inverseOf, outputEnergy, pricesWithout, squaredRows, sweep } from "./condition.js";
import { fullFromTriangle, halvesOf } from "./packing.js";

let layer = null;

/** Unpacks the layer, and inverts H. */
export function prepareLayer({ gram, weights, size, outputs, ridge }, progress) {
  const matrix = fullFromTriangle(halvesOf(gram), size);
  const loaded = { gram: matrix, weights: halvesOf(weights), size, outputs, ridge };
  loaded.energy = outputEnergy(loaded);
  const raised = Float64Array.from(matrix);
  for (let index = 0; index < size; index += 1) {
    raised[index * size + index] += ridge;
  }
  loaded.inverse = inverseOf(raised, size, progress);
  return loaded;
}

/** One runner of the race: errors with and without the refit, as shares of the output's energy. */
export function raceOne(loaded, order, perRound, fewest, progress) {
  const remove = loaded.size - fewest;
  const swept = sweep({ ...loaded, remove, perRound, order, progress });
  const bare = errorsWithoutRefit({ ...loaded, order: swept.order, counts: swept.counts });
  return {
    counts: swept.counts,
    refitted: swept.dataErrors.map((error) => error / loaded.energy),
    bare: bare.map((error) => error / loaded.energy),
    order: swept.order,
  };
}

/** The neurons by energy, the smallest first. */
export function energyOrder(loaded) {
  const energies = squaredRows(loaded.weights, loaded.size, loaded.outputs);
  return Array.from(energies.keys()).sort((left, right) => energies[left] - energies[right] || left - right);
}

/** Answers one message; `answer` sends one back. */
export function answerMessage(message, answer) {
  if (message.kind === "start") {
    const progress = (what) => {
      let told = 0;
      return (share) => {
        if (share - told > 0.02 || share === 1) {
          told = share;
          answer({ kind: "progress", what, share });
        }
      };
    };
    layer = prepareLayer(message, progress("inverting the matrix"));
    const energies = squaredRows(layer.weights, layer.size, layer.outputs).map((energy) => energy / layer.energy);
    const conditions = energies.map((_, index) =>
      Math.sqrt((1 + layer.ridge) * layer.inverse[index * layer.size + index]),
    );
    answer({ kind: "ready", energies, conditions, ...pricesByHand(layer, []) });
    const orders = { price: null, energy: energyOrder(layer), random: message.randomOrder };
    for (const [name, order] of Object.entries(orders)) {
      const curve = raceOne(layer, order, message.perRound, message.fewest, progress(`removing by ${name}`));
      answer({ kind: "curve", name, ...curve });
    }
    answer({ kind: "done" });
  } else {
    answer({ kind: "prices", removed: message.removed, ...pricesByHand(layer, message.removed) });
  }
}

/** The prices of all neurons without those of `removed`, and the error so far, as shares of the output's energy. */
export function pricesByHand(loaded, removed) {
  const { prices, dataError } = pricesWithout({ ...loaded, removed });
  return { prices: prices.map((price) => price / loaded.energy), error: dataError / loaded.energy };
}
