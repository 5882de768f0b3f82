// The arithmetic of part 4, as comp_lib/hybrid_granularity/measured.py has it.
//
// The harm of narrowing each layer alone was measured, and its error curve e_l. The prediction for g neurons less is
//
//     harm_l ^ exponent * e_l(g) / e_l(reference)        summed up over the layers
//
// It compares plans, and is no loss: its unit means nothing by itself.

/** e_l(g), on straight lines between the points of the curve, one for each `multiple` of neurons. */
export function errorOnCurve(curve, multiple, gone) {
  const place = Math.min(gone / multiple, curve.length - 1);
  const left = Math.min(Math.floor(place), curve.length - 2);
  return curve[left] + (curve[left + 1] - curve[left]) * (place - left);
}

/** The predicted harm of each layer, for the widths of all; a layer that is dropped has none: NaN. */
export function predictedHarms(numbers, widths) {
  return widths.map((width, layer) => {
    if (width === 0) {
      return NaN;
    }
    const curve = numbers.curves[layer];
    const reference = errorOnCurve(curve, numbers.multiple, numbers.removed);
    const share = errorOnCurve(curve, numbers.multiple, numbers.neurons[layer] - width) / reference;
    return numbers.harm[layer] ** numbers.exponent * share;
  });
}

export function sumOf(values) {
  return values.reduce((total, value) => total + value, 0);
}

/** The part of the decoder's parameters that goes with these widths and KV groups in each layer. */
export function removedShare(numbers, widths, kvGroups) {
  let gone = 0;
  widths.forEach((width, layer) => {
    if (width === 0) {
      gone += numbers.layer_parameters;
    } else {
      gone += (numbers.neurons[layer] - width) * numbers.neuron_parameters;
      gone += (numbers.kv_groups - kvGroups) * numbers.group_parameters;
    }
  });
  return gone / (numbers.layer_parameters * widths.length);
}

/** The predicted harm if all layers had the same width and as many neurons stayed. */
export function harmOfOneWidth(numbers, widths) {
  const width = sumOf(widths) / widths.length;
  return sumOf(predictedHarms(numbers, widths.map(() => width)));
}
