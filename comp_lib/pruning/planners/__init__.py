"""Who decides how much of each layer goes: COMP in `comp`, and the methods that it is compared with.

| method | source | where |
|---|---|---|
| llm-pruner | LLM-Pruner, Ma et al. 2023, arXiv 2305.11627 | `llm_pruner` |
| flap | FLAP, An et al. 2023, arXiv 2312.11983 | `flap`; its bias compensation is the recovery "bias" |
| slimgpt | SlimGPT, Ling et al. 2024, arXiv 2412.18110 | `slimgpt`: widths alone, the rest is COMP's |
| shortgpt | ShortGPT, Men et al. 2024, arXiv 2403.03853 | `shortgpt` |
| wanda-sp | Wanda, Sun et al. 2023, arXiv 2306.11695; groups: An et al. | `neuron_metrics.wanda_sp` |
| magnitude | the norm of all weights that go together | `neuron_metrics.magnitude` |
| random | the floor | `neuron_metrics.random` |

The code follows the papers' formulas and was compared with the public code. Where the two differ, the module
says which it follows. The last three methods judge one output linear at a time, so they are neuron metrics
(wanda-sp sees tokens as COMP weights them). The modules of this package are planners, which
`planning.PLANNERS` lists beside COMP's. The plan of SlimGPT has widths alone. The other planners look at the
whole model and return an exact plan, which `prune` carries out to the letter with any recovery. All methods
remove about as many parameters as a uniform plan would at the same settings: LLM-Pruner and FLAP by
`hybrid_granularity.uniform.parameter_budget`, SlimGPT by its own widths; whole layers are coarser.
"""
