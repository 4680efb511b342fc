"""From a config or a checkpoint to a trainer, and the end of a run; begin with setup.py.

setup   new run or resume                         checkpoints   which one to resume, and reading it
run_config   checked and completed; what may change at a resume
data_values   `${data:NAME}`, values of the train dataset
initial_weights   weights of other files          same_data   the data are those of the checkpoint
end   what is recorded at the end
"""
