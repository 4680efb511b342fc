"""Mistakes that somebody could make in the core, and the tests that have to notice them.

    python tests/release/mutations.py                  # all of them, in some minutes
    python tests/release/mutations.py "no fsync"       # those whose names contain these words
    python tests/release/mutations.py -v "no fsync"    # also prints what pytest says

Each mistake is made in a copy of the project, and gets a line. Exit code 1: the tests did not notice one.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent.parent
PASSED, FAILED = 0, 1  # pytest's exit codes; others tell that tests were not found, or could not be run
LIMIT_S = 300


class Mutation(NamedTuple):
    """`name` says what is wrong once `old`, which stands exactly once in `file`, is `new`.

    `tests` are names of test functions, perhaps with parameters, `test_name[2-sgd]`; their files are found.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    # -- samples that a collate function leaves out
    Mutation("left out samples count", "base/data/sample_count.py",
             "number = count_samples(batch.data, batch.num_samples)", "number = batch.num_samples",
             "test_a_batch_counts_the_samples_that_its_collate_function_has_left"),
    Mutation("an empty batch makes a step", "base/base_trainer.py",
             "            position.pass_over(len(batches))\n            return False",
             "            num_samples = 1",
             "test_batches_without_samples_make_no_step_and_means_are_over_what_came"),
    Mutation("processes do not agree on what is left of a step", "base/base_data_loader.py",
             "num_samples = int(dist.all_reduce(torch.tensor(num_samples)))", "num_samples *= 2",
             "test_two_processes_train_to_the_numbers_of_one[dropped]"),
    # -- samplers
    Mutation("repeated samples are augmented alike", "base/data/sampler.py",
             "*([repeat] if repeat else []))", ")",
             "test_a_sample_that_comes_again_in_an_epoch_is_augmented_otherwise[samples]"),
    Mutation("repeated samples get the same draws of a batch", "base/data/batch_transforms.py",
             "if chosen.repeats is not None:", "if False:",
             "test_a_sample_that_comes_again_in_an_epoch_is_augmented_otherwise[batches]"),
    Mutation("an order that processes do not share is taken", "base/data/planned.py",
             "            if digest != digests[0]:", "            if False:",
             "test_a_sampler_that_is_not_the_same_in_all_processes_is_an_error_that_names_one"),
    Mutation("schedules get the first epoch's steps for all", "base/base_data_loader.py",
             "            counts = plans.counts(num_epochs)", "            pass",
             "test_schedules_get_the_true_number_of_steps_of_epochs_that_differ"),
    # -- folds
    Mutation("folds do not spread the classes", "base/data/folds.py",
             'order = order[np.argsort(classes[order], kind="stable")]', "order = order",
             "test_folds_are_disjoint_and_spread_every_class"),
    Mutation("a run may change its fold", "base/run_setup.py", '"folds", "fold", "stratify"', '"folds", "stratify"',
             "test_a_run_keeps_its_fold_and_is_scored_on_it"),
    # -- one geometry for image and targets
    Mutation("torchvision moves the image alone", "base/data/views.py",
             "        if not (self.joint or moves_targets):", "        if not self.joint:",
             "test_torchvision_transforms_move_image_mask_and_boxes_alike_where_targets_are_tv_tensors"),
    Mutation("masks do not move with the images of a batch", "base/data/augmentation.py",
             "            return self.augment_masks(value[:, None], copy.copy(same))[:, 0] if is_mask else value",
             "            return value", "test_batch_augmentations_move_masks_with_their_images"),
    Mutation("masks draw other numbers than their images", "base/data/augmentation.py",
             "self.augment_masks(value[:, None], copy.copy(same))", "self.augment_masks(value[:, None], draws)",
             "test_batch_augmentations_move_masks_with_their_images"),
    Mutation("runs of 1.0.0 move their masks from now on", "utils/checkpoint/format_1.py",
             '"transforms": {"joint": False}', '"transforms": {"joint": None}',
             "test_a_run_of_1_0_0_moves_its_images_alone"),
    # -- frozen parameters
    Mutation("frozen parameters are not in the groups", "base/base_model.py",
             "        if keep_frozen or parameter.requires_grad:", "        if parameter.requires_grad:",
             "test_a_part_that_is_unfrozen_later_is_trained_from_then_on"),
    Mutation("rules that freeze count first", "base/base_model.py",
             "rules = list(rules) if keep_frozen else sorted", "rules = sorted",
             "test_the_first_rule_that_matches_counts_but_in_runs_of_1_0_0_those_that_freeze"),
    Mutation("a shadowed rule is taken", "base/base_model.py", "        if number in matches:",
             "        if True:", "test_a_rule_that_earlier_ones_shadow_is_an_error_that_names_them"),
    Mutation("frozen BatchNorm keeps learning", "base/base_model.py",
             "            layer.eval()", "            layer.train()",
             "test_frozen_normalisation_layers_keep_their_statistics_unless_the_config_says_otherwise"),
    Mutation("runs of 1.0.0 get frozen parameters into their groups", "utils/checkpoint/format_1.py",
             '"optimizer": {"keep_frozen": False}', '"optimizer": {}',
             "test_a_run_of_1_0_0_with_frozen_parameters_goes_on"),
    # -- resuming
    Mutation("the monitor is in no checkpoint", "base/base_trainer.py",
             'self.state |= {"monitor": self.monitor} if self.monitor else {}', "pass",
             "test_early_stopping_counts_on_after_a_resume "
             "test_a_resumed_run_keeps_its_best_epoch_until_there_is_a_better_one"),
    Mutation("a run is resumed with other data", "base/run_setup.py",
             "require_kept_data(trainer.data, checkpoint.state, checkpoint.file)", "pass",
             "test_a_run_is_not_resumed_with_other_sizes_or_classes[more] "
             "test_other_samples_are_a_warning_and_a_moved_root_is_none"),
    Mutation("data and fingerprint hold each other", "base/data/fingerprint.py",
             "weakref.proxy(data)", "data",
             "test_data_that_is_no_longer_used_ends_its_workers_at_once"),
    Mutation("the digests of samples draw from the run's generators", "base/data/fingerprint.py",
             "with generators_kept(dataset):", "if True:",
             "test_a_fingerprint_moves_no_generator"),
    Mutation("processes with other data train together", "base/same_data.py",
             "if change := _difference(first, other):", "if change := None:",
             "test_a_process_with_other_data_is_named"),
    Mutation("the order of an epoch is drawn by each loader", "base/data/sampler.py",
             "if self._kept is None or self._kept[0] != epoch:", "if True:",
             "test_the_split_and_the_order_of_an_epoch_are_drawn_once[20-expected0]"),
    Mutation("a replayed stream passes over none of its samples", "base/data/streams.py",
             "range(place.num_read if replay else 0)", "range(0)",
             "test_a_stream_is_replayed_to_the_sample_and_one_that_loses_its_buffer_is_warned_of[replay-0] "
             "test_a_replayed_stream_goes_on_after_an_epoch_that_was_cut"),
    Mutation("a stream that loses its shuffle buffer is taken for exact", "base/data/streams.py",
             "elif place.state is not None and forgets_shuffle_buffer(stream.dataset):", "elif False:",
             "test_a_stream_is_replayed_to_the_sample_and_one_that_loses_its_buffer_is_warned_of[state-0]"),
    Mutation("broken images pass the check", "tools/image_headers.py",
             'return ["are broken"]', "return []",
             "test_what_is_odd_about_images_is_counted_by_kind_with_a_first_path"),
    Mutation("images lie on their side", "data_loader/image_folder.py",
             "image = ImageOps.exif_transpose(image)", "pass", "test_images_are_turned_as_their_exif_says"),
    Mutation("a resumed run forgets its best value", "utils/training/monitor.py",
             'float(state["best"])', "self.best",
             "test_a_resumed_run_keeps_its_best_epoch_until_there_is_a_better_one"),
    Mutation("a checkpoint is one behind in counting evaluations without improvement",
             "utils/training/monitor.py",
             '"num_bad": self.num_bad}', '"num_bad": max(self.num_bad - 1, 0)}',
             "test_early_stopping_counts_on_after_a_resume"),
    Mutation("the totals of an unfinished epoch are in no checkpoint", "base/base_trainer.py",
             '"totals": self.totals,', "",
             "test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits[3-step-groups]"),
    Mutation("averaged weights are in no checkpoint", "base/base_trainer.py",
             'self.state["ema"] = self.ema', "pass",
             "test_three_epochs_and_three_more_are_six_epochs_bit_for_bit[0-0]"),
    Mutation("a resumed run begins its schedule anew", "utils/training/updater.py",
             'self.schedule.load_state_dict(state["schedule"])', "pass",
             "test_three_epochs_and_three_more_are_six_epochs_bit_for_bit[0-0]"),
    Mutation("a resumed run begins its loss scale anew", "utils/training/updater.py",
             'self.scaler.load_state_dict(state["scaler"])', "pass",
             "test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits[3-step-fp16-torchmetrics]"),
    Mutation("a resumed run begins its optimizer anew", "utils/training/updater.py",
             'self.optimizer.load_state_dict({**saved, "param_groups": groups})', "pass",
             "test_three_epochs_and_three_more_are_six_epochs_bit_for_bit[0-0]"),
    Mutation("a resumed run begins the epoch under way anew", "utils/training/progress.py",
             'self.batch = -(-state["samples"] // self._batch_size)', "self.batch = 0",
             "test_a_run_stopped_within_an_epoch_resumes_to_the_same_bits[3-step-groups]"),
    Mutation("metrics.jsonl keeps the lines after the checkpoint that is resumed", "logger/metrics_file.py",
             "os.truncate(self.path, size)", "pass",
             "test_an_epoch_checkpoint_of_the_past_goes_on_without_duplicate_lines"),
    Mutation("a learning rate that is changed at a resume is ignored", "base/run_setup.py",
             '_KEPT_SECTIONS = ("name", "seed", "optimizer", "scheduler")', "_KEPT_SECTIONS = ()",
             "test_a_learning_rate_cannot_be_changed_without_effect_at_resume"),
    Mutation("what a checkpoint lacks keeps its first value", "utils/checkpoint/state.py",
             "    if alone:", "    if False:",
             "test_a_part_that_the_checkpoint_lacks_or_has_too_much_is_named"),
    Mutation("new code is in no record of a run", "utils/git.py",
             'run("add", "--intent-to-add",', 'run("add", "--intent-to-add", "none.yml",',
             "test_new_code_and_configs_of_the_project_are_recorded"),
    Mutation("files that are named like credentials are recorded", "utils/git.py",
             "if _CREDENTIALS.search(name) and", "if False and",
             "test_a_file_that_is_named_like_credentials_is_not_recorded"),
    Mutation("loader workers hold the lock of their run", "utils/run_lock.py",
             "fcntl.lockf(self._descriptor,", "fcntl.flock(self._descriptor,",
             "test_workers_that_outlive_a_killed_run_do_not_hold_its_lock"),
    Mutation("two processes train one run", "base/run_setup.py",
             "    if lock and dist.is_main():", "    if False:",
             "test_a_run_that_another_process_trains_is_refused"),
    Mutation("a checkpoint that was replaced before the lock was taken is resumed as it was",
             "base/run_setup.py", "if file_stamp(checkpoint.file) == checkpoint.stamp:", "if True:",
             "test_the_checkpoint_is_read_again_if_it_was_replaced_before_the_lock_was_taken"),
    Mutation("test.py writes through a link", "test.py",
             "    replace_file(file, json.dumps({", "    type(file).write_text(file, json.dumps({",
             "test_a_link_in_a_run_folder_is_replaced_and_its_target_stays"),
    Mutation("a resumed run writes through links", "base/run_setup.py",
             "        remove_links(folder)\n", "",
             "test_a_link_in_a_run_folder_is_replaced_and_its_target_stays"),
    # -- randomness
    Mutation("derived seeds are sums", "utils/random.py",
             'return int.from_bytes(digest, "little") >> 1', "return seed + sum(counters)",
             "test_neighbouring_seeds_do_not_share_their_epochs"),
    Mutation("every epoch has the order of the first", "base/data/sampler.py",
             'derive(self.seed, "epoch", epoch)', 'derive(self.seed, "epoch", 0)',
             "test_the_order_is_a_function_of_seed_and_epoch"),
    Mutation("the order of samples depends on the number of processes", "base/data/sampler.py",
             "self.order.shuffled(self.epoch)",
             "self.order.shuffled(self.epoch + self.rank_slice.world_size)",
             "test_two_processes_share_the_batches_that_one_has"),
    Mutation("all samples of an epoch draw the same numbers", "base/data/views.py",
             'derive(self.seed, "sample", epoch, index)', 'derive(self.seed, "sample", epoch)',
             "test_augmentation_follows_from_seed_epoch_and_sample_alone"),
    Mutation("a sample draws the same numbers in every epoch", "base/data/views.py",
             'derive(self.seed, "sample", epoch, index)', 'derive(self.seed, "sample", index)',
             "test_augmentation_follows_from_seed_epoch_and_sample_alone"),
    Mutation("samples are not seeded", "base/data/views.py",
             'seed_cpu(derive(self.seed, "sample", epoch, index))', "pass",
             "test_the_number_of_workers_changes_nothing"),
    Mutation("dropout is the same on all processes", "base/base_trainer.py",
             'derive(seed, "step", dist.rank())', 'derive(seed, "step")',
             "test_dropout_differs_between_processes_and_from_step_to_step"),
    Mutation("dropout is the same in every step", "utils/random.py",
             "_seed_torch(scramble(self.seed, step), self.device)", "_seed_torch(self.seed, self.device)",
             "test_dropout_differs_from_step_to_step"),
    Mutation("steps are not seeded", "utils/random.py",
             "_seed_torch(scramble(self.seed, step), self.device)", "pass",
             "test_the_number_of_workers_never_changes_a_result"),
    Mutation("a resume forgets that steps draw from Python's generator", "base/base_trainer.py",
             'self._step_seeds.drawn or state["progress"].get("draws", False)', "False",
             "test_the_steps_of_a_run_draw_by_its_seed_also_after_a_resume_at_any"),
    # -- data
    Mutation("samples for validation are trained on", "base/base_data_loader.py",
             '("train", ~held_out)', '("train", torch.ones_like(held_out))',
             "test_a_split_by_ratio_or_count_is_disjoint_and_covers_everything"),
    Mutation("an evaluation sees the transforms of training", "base/base_data_loader.py",
             'self.transforms["train" if training else "eval"]', 'self.transforms["train"]',
             "test_validation_never_sees_training_transforms_even_where_it_is_split_from_train[0]"),
    Mutation("an evaluation sees the batch augmentations of training", "base/base_trainer.py",
             "batch.chosen if training else None", "batch.chosen",
             "test_an_evaluation_is_the_mean_over_every_sample_by_a_network_in_eval_mode"),
    Mutation("an evaluation leaves out its last short batch where training does", "base/base_data_loader.py",
             "shuffle=self.shuffle and training, drop_last=self.drop_last and training",
             "shuffle=self.shuffle and training, drop_last=self.drop_last",
             "test_an_evaluation_is_the_mean_over_every_sample_by_a_network_in_eval_mode"),
    Mutation("batch_size is that of each process", "base/base_data_loader.py",
             "self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size",
             "self.batch_size, self.eval_batch_size = batch_size * dist.world_size(), eval_batch_size",
             "test_two_processes_share_the_batches_that_one_has"),
    Mutation("a signal to the group ends loader workers", "base/base_data_loader.py",
             ', "worker_init_fn": ignore_in_worker', "",
             "test_a_signal_writes_a_checkpoint_and_the_resumed_run_ends_with_the_same_bits[15]"),
    # -- steps
    Mutation("gradients are not dropped after a step", "utils/training/updater.py",
             "self._drop_gradients()", "pass",
             "test_a_step_follows_the_gradient_over_all_samples_of_its_window[1-None-fp32-1e-05]"),
    Mutation("a window is the mean of its batches, whatever their sizes", "base/base_trainer.py",
             "Window(weight=batch.num_samples / (num_samples / self._num_processes),",
             "Window(weight=1 / len(batches),",
             "test_a_step_follows_the_gradient_over_all_samples_of_its_window[2-None-fp32-1e-05]"),
    Mutation("gradients of a window are added up", "base/base_trainer.py",
             "Window(weight=batch.num_samples / (num_samples / self._num_processes),", "Window(weight=1.0,",
             "test_a_step_follows_the_gradient_over_all_samples_of_its_window[2-None-fp32-1e-05]"),
    Mutation("the gradient is divided by the number of processes twice", "base/base_trainer.py",
             "batch.num_samples / (num_samples / self._num_processes)", "batch.num_samples / num_samples",
             "test_two_processes_follow_the_gradient_over_all_samples_of_a_window"),
    Mutation("processes keep their gradients to themselves", "utils/distributed/strategy.py",
             "with nullcontext() if final else self.ddp.no_sync():", "with self.ddp.no_sync():",
             "test_two_processes_follow_the_gradient_over_all_samples_of_a_window"),
    Mutation("a short window at the end of an epoch is left out", "utils/training/progress.py",
             "while window := list(islice(batches, size)):",
             "while len(window := list(islice(batches, size))) == size:",
             "test_a_step_follows_the_gradient_over_all_samples_of_its_window[3-None-fp32-1e-05]"),
    Mutation("every process counts an equal part of a batch", "base/base_trainer.py",
             "Window(weight=batch.num_samples / (num_samples / self._num_processes),",
             "Window(weight=batch.num_total / num_samples,",
             "test_two_processes_follow_the_gradient_over_all_samples_of_a_window"),
    Mutation("clip_norm clips nothing", "utils/training/updater.py",
             "clip_grad_norm_(self.parameters, self.clip_norm)",
             'clip_grad_norm_(self.parameters, float("inf"))',
             "test_a_step_follows_the_gradient_over_all_samples_of_its_window[1-0.3-fp32-1e-05]"),
    Mutation("gradients are clipped before fp16's scale is taken out", "utils/training/updater.py",
             "self.scaler.unscale_(self.optimizer)", "pass",
             "test_a_step_follows_the_gradient_over_all_samples_of_its_window[1-0.3-fp16-0.01]"),
    Mutation("the gradient of each batch of a window is clipped", "utils/training/updater.py",
             "                weighted.backward(inputs=self.inputs)",
             "                weighted.backward(inputs=self.inputs); "
             "torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm or 1e9)",
             "test_a_step_follows_the_gradient_over_all_samples_of_its_window[3-0.3-fp32-1e-05]"),
    Mutation("a loss that is not finite is stepped on", "utils/training/non_finite_guard.py",
             "elif not math.isfinite(number := value.item()):", "elif False:",
             "test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights"),
    Mutation("a NaN of one process is blamed on the first one", "base/nan_report.py",
             "(findings[number][2], bool(findings[number][0])))", "bool(findings[number][0]))",
             "test_the_process_that_saw_the_value_that_is_not_finite_is_named_first"),
    Mutation("a step that is left out changes BatchNorm's statistics", "base/recovery.py",
             "now.copy_(torch.where(skipped, before, now) if isinstance(skipped, torch.Tensor) else before)",
             "pass",
             "test_a_step_that_is_left_out_leaves_everything_as_it_was"),
    Mutation("max_nan_steps counts one too many", "utils/training/non_finite_guard.py",
             "elif self.num_in_a_row > self.tolerated:", "elif self.num_in_a_row > self.tolerated + 1:",
             "test_steps_with_a_bad_loss_can_be_left_out_as_if_they_had_not_been"),
    # -- evaluation, the best epoch, schedules
    Mutation("an evaluation is in training mode", "base/base_trainer.py",
             "self.set_mode(training=False)", "self.set_mode(training=True)",
             "test_an_evaluation_is_the_mean_over_every_sample_by_a_network_in_eval_mode"),
    Mutation("averaged weights are not what is evaluated", "base/base_trainer.py",
             "self.model = self.ema.model if self.ema else self.model", "pass",
             "test_scoring_val_reproduces_the_numbers_of_training_exactly"),
    Mutation("averages are over batches", "base/base_metric.py",
             "value.detach().clone(), count, count, skipped)",
             "value.detach().clone(), 1, 1, skipped)",
             "test_an_evaluation_is_the_mean_over_every_sample_by_a_network_in_eval_mode"),
    Mutation("the totals of one process are logged", "base/base_metric.py",
             "gathered = dist.all_gather_object({name: _read_values(entries)",
             "gathered = (lambda own: [own])({name: _read_values(entries)",
             "test_two_processes_follow_the_gradient_over_all_samples_of_a_window"),
    Mutation("early_stop waits for one more evaluation", "utils/training/monitor.py",
             "self.num_bad >= self.patience", "self.num_bad > self.patience",
             "test_early_stopping_counts_evaluations_without_improvement"),
    Mutation("a NaN is the best value", "utils/training/monitor.py",
             "improved = gain > self.min_delta", "improved = not gain <= self.min_delta",
             "test_a_nan_never_improves_and_counts_as_a_look_in_vain"),
    Mutation("best.pt is the last epoch", "base/base_trainer.py",
             'names += ["best.pt"] if improved else []', 'names += ["best.pt"]',
             "test_a_resumed_run_keeps_its_best_epoch_until_there_is_a_better_one"),
    Mutation("ReduceLROnPlateau is not told the monitored value", "base/base_trainer.py",
             "updater.schedule.epoch(monitored)", "updater.schedule.epoch(None)",
             "test_a_plateau_of_the_monitored_value_lowers_the_learning_rate_of_the_next_epoch"),
    # -- files
    Mutation("no fsync of a checkpoint's file", "utils/checkpoint/archive.py",
             "os.fsync(self._descriptor)", "pass",
             "test_content_is_flushed_before_its_name_and_names_before_an_older_checkpoint_goes[links]"),
    Mutation("no fsync of the folder of checkpoints", "utils/checkpoint/archive.py",
             "os.fsync(descriptor)", "pass",
             "test_content_is_flushed_before_its_name_and_names_before_an_older_checkpoint_goes[links]"),
    Mutation("no fsync of a copy where there are no hard links", "utils/checkpoint/store.py",
             "os.fsync(handle.fileno())", "pass",
             "test_content_is_flushed_before_its_name_and_names_before_an_older_checkpoint_goes[copies]"),
    Mutation("a name is given by writing over what had it", "utils/checkpoint/store.py",
             "os.replace(link, file.parent / name)", "shutil.copyfile(link, file.parent / name)",
             "test_content_is_flushed_before_its_name_and_names_before_an_older_checkpoint_goes[links]"),
    Mutation("old epochs are removed before the new one is written", "utils/checkpoint/store.py",
             "self._write(saving.content, names)",
             '[old.unlink() for old in self.folder.glob("epoch_*.pt")]; self._write(saving.content, names)',
             "test_content_is_flushed_before_its_name_and_names_before_an_older_checkpoint_goes[links]"),
    Mutation("last.pt gets its name before best.pt", "base/base_trainer.py",
             'self.save(*names, "last.pt")', 'self.save("last.pt", *names)',
             "test_a_kill_between_the_two_names_of_the_best_epoch_changes_nothing"),
    Mutation("previous.pt is not kept", "utils/checkpoint/store.py",
             '_link_as(self.folder / "last.pt", "previous.pt")', "pass",
             "test_a_run_folder_holds_what_the_contract_says"),
    Mutation("a save in the background sees the weights change", "utils/checkpoint/store.py",
             'copied = self._copies.copy({"rest": rest, "shards": shards})',
             'copied = {"rest": rest, "shards": shards}',
             "test_training_goes_on_while_a_save_is_written_and_the_next_save_waits"),
    Mutation("a checkpoint may run code", "utils/checkpoint/archive.py",
             'content = torch.load(file, map_location="cpu", weights_only=True)',
             'content = torch.load(file, map_location="cpu", weights_only=False)',
             "test_damaged_and_hostile_checkpoints_are_refused_and_run_no_code[zip]"),
    Mutation("checksums are not looked at", "utils/checkpoint/archive.py",
             "if damaged := archive.testzip():", "if damaged := None:",
             "test_damaged_and_hostile_checkpoints_are_refused_and_run_no_code[flipped]"),
    Mutation("what stands between the records of a file is under no checksum", "utils/checkpoint/archive.py",
             "if archive.comment != seal or not end.endswith(seal[-_NUM_DIGITS:]):", "if False:",
             "test_a_flip_of_any_byte_and_a_cut_anywhere_are_noticed"),
    Mutation("weights that are not finite are loaded", "utils/checkpoint/loading.py",
             'return f"damaged: the weights of {bad} are not finite"', "continue",
             "test_weights_that_are_not_finite_are_neither_written_nor_read"),
    Mutation("weights that are not finite are saved", "utils/checkpoint/store.py",
             "bad = _find_non_finite_anywhere(weights) if shards else find_non_finite(weights)",
             "bad = None",
             "test_weights_that_are_not_finite_are_neither_written_nor_read"),
    Mutation("a damaged checkpoint ends the look for one", "base/run_setup.py",
             'log.warning("%s. Looking for an older one.", error)', "raise",
             "test_a_damaged_checkpoint_is_named_and_the_newest_sound_one_is_used"),
    Mutation("a disk that fails for a moment ends the run", "utils/checkpoint/store.py",
             "self._failing_s >= PATIENCE_S", "True",
             "test_so_many_failures_in_a_row_end_the_run_after_a_minute"),
    Mutation("the minute of failed saves counts from the run's first failure", "utils/checkpoint/store.py",
             "if self.num_failures == 0:", "if not self._first_failed_at:",
             "test_so_many_failures_in_a_row_end_the_run_after_a_minute"),
    # -- signals and exit codes
    Mutation("SIGHUP is not heard", "utils/signals.py",
             '"SIGTERM", "SIGHUP", "SIGUSR1")', '"SIGTERM", "SIGUSR1")',
             "test_a_plain_run_saves_at_a_hangup_and_can_be_resumed"),
    Mutation("a second Ctrl-C waits as the first does", "utils/training/stop_requests.py",
             "if number == signal.SIGINT and self.signal_number is not None:", "if False:",
             "test_a_second_ctrl_c_ends_a_plain_run_at_once_and_costs_no_file"),
    Mutation("a signal that nohup ignores is heard", "utils/training/stop_requests.py",
             "if signal.getsignal(number) not in (signal.SIG_IGN, None)]", "]",
             "test_a_signal_that_was_ignored_at_the_start_stays_ignored"),
    Mutation("a signal waits for the end of an evaluation", "base/base_trainer.py",
             "self.stop_if_requested(self.poll_requests(ballot), time_limit=False)", "pass",
             "test_a_signal_in_an_evaluation_ends_it_at_the_next_batch_and_it_is_made_up_for"),
    Mutation("a run that a signal ended exits with 0", "utils/errors.py",
             "return 128 + error.signal_number if error.signal_number else 0", "return 0",
             "test_a_plain_run_saves_at_a_hangup_and_can_be_resumed"),
    Mutation("a mistake in a config exits with 1", "utils/errors.py",
             "return 2 if isinstance(error, ConfigError) else 1", "return 1",
             "test_a_users_mistake_is_one_message_and_exit_code_2"),
    Mutation("a loader worker that was killed is a traceback", "utils/torch_messages.py",
             'signs = ("DataLoader worker (pid", ', 'signs = ("DataLoader (pid", ',
             "test_a_killed_loader_worker_ends_the_run_with_settings_that_help_and_the_last_checkpoint"),
    Mutation("a full shared memory is a mistake of the config", "base/preflight.py",
             " or is_out_of_memory(error) or is_loader_worker_death(error)", " or is_out_of_memory(error)",
             "test_what_ends_a_worker_is_no_mistake_of_a_config"),
    # -- configs
    Mutation("a section that nobody knows is ignored", "base/validate.py",
             "[*unknown, *_faults(full),", "[*_faults(full),",
             "test_a_mistake_in_a_file_is_told_with_line_key_and_mend"),
    Mutation("an argument that nobody takes is ignored", "utils/config/signature.py",
             "elif name not in free and not self.open:", "elif False:",
             "test_a_mistake_in_a_file_is_told_with_line_key_and_mend"),
    Mutation("of two things of one name the later is taken", "utils/config/registry.py",
             "if name in self._twice:", "if False:",
             "test_two_things_of_one_name_are_a_mistake_that_names_both_files"),
    Mutation("YAML aliases repeat without end", "utils/config/syntax.py",
             "if self._repeated > _MAX_REPEATED:", "if self._repeated > 10 * _MAX_REPEATED:",
             "test_aliases_that_repeat_without_end_are_refused"),
    Mutation("references stand for ever more", "utils/config/interpolation.py",
             "if self.size > _MAX_SIZE:", "if self.size > 100 * _MAX_SIZE:",
             "test_references_that_stand_for_ever_more_are_refused"),
    Mutation("a config of any size is read", "utils/config/loading.py",
             "if len(content) > _MAX_BYTES:", "if False:",
             "test_what_is_no_file_of_a_sensible_size_is_not_read"),
    Mutation("a device is read as a config", "utils/config/loading.py",
             "if file.exists() and not (file.is_file() or file.is_dir()):", "if False:",
             "test_what_is_no_file_of_a_sensible_size_is_not_read"),
    Mutation("a config extends files without end", "utils/config/loading.py",
             "if len(self.layers) + len(chain) >= _MAX_FILES:", "if False:",
             "test_files_that_extend_ever_more_files_are_refused"),
    Mutation("a log passes control characters on", "logger/console.py",
             "return printable(super().format(record))", "return super().format(record)",
             "test_control_characters_of_a_config_reach_neither_terminal_nor_log"),
    Mutation("an error passes control characters on", "utils/errors.py",
             "print(printable(str(error)), file=sys.stderr)", "print(error, file=sys.stderr)",
             "test_control_characters_of_a_config_reach_neither_terminal_nor_log"),
    Mutation("a metric has any name", "base/validate.py",
             "if not _METRIC_NAME.fullmatch(name):", "if False:", "test_the_name_of_a_metric_is_harmless"),
    Mutation("the config of a checkpoint is interpolated", "utils/config/loading.py",
             "lambda path: any(path[:len(key)] == key for key in keys)", "lambda path: True",
             "test_the_config_of_a_checkpoint_is_never_interpolated"),
    Mutation("all keys are text", "utils/config/syntax.py",
             "if is_argument and node.tag", "if False and node.tag",
             "test_keys_of_arguments_that_are_numbers_stay_numbers"),
    Mutation("a checkpoint refuses keys that are numbers", "utils/checkpoint/loading.py",
             "isinstance(key, (str, int, float))", "isinstance(key, str)",
             "test_a_run_keeps_the_keys_of_an_argument_that_are_numbers"),
    Mutation("an override writes a number beside itself as text", "utils/config/loading.py",
             "key = key_in(merged, key)", "pass", "test_overrides_reach_keys_that_are_numbers"),
    Mutation("text keys stay text where numbers are asked for", "utils/config/signature.py",
             "if not kinds or str in kinds:", "if True:",
             "test_text_becomes_the_numbers_that_an_argument_asks_for_as_keys"),
    Mutation("another type drops all arguments", "base/run_setup.py",
             "reading = keep_arguments(reading)", "pass",
             "test_a_run_with_another_type_keeps_the_arguments"),
    Mutation("another type keeps the arguments that it does not take", "base/changed_types.py",
             "if name in free and name not in new}", "if name not in new}",
             "test_an_override_of_a_type_keeps_what_the_new_one_takes_and_names_the_rest"),
    Mutation("runs are compared at their last epochs", "tools/diff.py",
             "if monitor is None:", "if True:", "test_runs_are_compared_at_their_best_epochs"),
    Mutation("a monitored value that is the same is not shown", "tools/diff.py",
             "if key in shown or any(", "if any(", "test_runs_are_compared_at_their_best_epochs"),
    Mutation("OneCycleLR is stepped after each epoch", "base/build.py",
             "issubclass(kind, (OneCycleLR, CyclicLR))", "False",
             "test_cycles_are_stepped_after_each_step_unless_the_config_or_an_older_run_says_otherwise"),
    Mutation("a run without the key takes the pace of today", "utils/checkpoint/format_1.py",
             '"scheduler": {"per": "epoch"}, ', "",
             "test_cycles_are_stepped_after_each_step_unless_the_config_or_an_older_run_says_otherwise"),
    Mutation("a schedule too long for the run is not reported", "utils/training/schedule_length.py",
             "else length > _FAR * num_calls", "else False",
             "test_a_length_far_from_that_of_the_run_is_reported_with_both_numbers"),
    Mutation("a OneCycleLR that ends before the run fails within it", "utils/training/schedule_length.py",
             "if fails and not resumed:", "if False:",
             "test_mistakes_of_the_second_kind_are_config_errors"),
    Mutation("a NaN in an evaluation is counted from 0", "base/base_metric.py",
             "enumerate(parts, 1) if math.isnan(part)", "enumerate(parts, 0) if math.isnan(part)",
             "test_a_nan_in_an_evaluation_is_reported_with_its_batch_and_with_what_the_loss_ignores"),
    Mutation("a loss of zero is reported no more", "base/preflight.py",
             'if values.get("loss") == 0 and', "if False and",
             "test_a_loss_of_zero_without_gradients_is_reported_before_the_run"),
    Mutation("images that move without their masks are not reported", "base/preflight.py",
             "    warn_of_moved_images(trainer.data, batch.data)\n", "",
             "test_geometry_of_the_image_alone_is_reported_beside_targets_that_lie_on_it"),
    Mutation("processes that were started by hand each train a run", "utils/distributed/environment.py",
             "size.isdecimal() and int(size) > 1", "False",
             "test_one_of_several_processes_that_cannot_join_is_an_error"),
    Mutation("a monitor against its name is not reported", "utils/training/monitor.py",
             "if mode != wanted:", "if False:", "test_a_monitor_against_its_name_is_reported"),
    Mutation("another number of threads is not reported", "utils/run_folder.py",
             "if before != num_threads:", "if False:",
             "test_a_resume_with_another_number_of_threads_is_reported"),
    Mutation("a sum over samples is weighted as a mean", "base/preflight_loss.py",
             "    if not resumed:\n        raise ConfigError.at(\"loss.args.reduction\"",
             "    if False:\n        raise ConfigError.at(\"loss.args.reduction\"",
             "test_a_sum_is_refused_where_a_step_has_several_parts"),
    Mutation("the type of a bare name is not found", "utils/config/loading.py",
             'elif not (isinstance(config, str) and part == "type"):', "else:",
             "test_a_value_is_found_by_its_key_where_a_bare_name_is_a_block"),
    # -- defaults, versions, other batches
    Mutation("defaults of the engine are not written into a config", "base/complete_config.py",
             'if isinstance(options := _given(config, "data_loader"), dict):', "if False:",
             "test_a_run_and_its_checkpoints_hold_every_default_of_the_project"),
    Mutation("defaults of plug-ins are not written into a config", "base/complete_config.py",
             "return module is not None and is_ours(getattr(module, \"__file__\", None) or \"\")",
             "return owner in _ENGINE",
             "test_a_default_of_a_plug_in_that_changes_leaves_a_run_as_it_is[False]"),
    Mutation("arguments of libraries are written into a config", "base/complete_config.py",
             "return module is not None and is_ours(getattr(module, \"__file__\", None) or \"\")",
             "return True",
             "test_a_run_and_its_checkpoints_hold_every_default_of_the_project"),
    Mutation("a run that is resumed with its config takes the defaults of today", "base/run_setup.py",
             "config, complete = complete_config(config, checkpoint.config, format_1.DEFAULTS)",
             "config, complete = complete_config(config)",
             "test_a_default_of_a_plug_in_that_changes_leaves_a_run_as_it_is[True]"),
    Mutation("a key that was taken out keeps its value", "base/complete_config.py",
             "kept = default_values(earlier or {})", "from utils.config.loading import flatten; "
             "kept = flatten(earlier or {})",
             "test_a_key_that_is_taken_out_of_the_config_of_a_run_gets_the_default_of_today"),
    Mutation("parts are given every default as if it were written", "base/complete_config.py",
             "if not is_same(value, default.today):", "if True:",
             "test_what_a_part_decides_itself_it_decides_also_after_a_resume"),
    Mutation("a kept default has no effect", "base/complete_config.py",
             "if not is_same(value, default.today):", "if False:",
             "test_a_default_of_a_plug_in_that_changes_leaves_a_run_as_it_is[False]"),
    Mutation("an override of a run's config that equals a default of then is lost", "utils/config/loading.py",
             "config = written_config(config)\n", "pass\n",
             "test_what_is_edited_or_overridden_in_the_config_of_a_run_was_written"),
    Mutation("kept options are not checked with what is written", "base/run_setup.py",
             "validate_config(checked,", "validate_config(reading.config,",
             "test_kept_values_count_where_options_are_checked_against_each_other"),
    Mutation("an argument that a plug-in gains is a change of the run", "base/run_setup.py",
             "if not all(key in defaults or key not in keys for defaults, keys in sides)}", "}",
             "test_an_argument_that_a_plug_in_gains_or_loses_is_no_change_of_a_run"),
    Mutation("kept defaults are checked like what is written", "utils/config/loading.py",
             "if isinstance(table, dict) and key in table and is_same(table[key], value):", "if False:",
             "test_a_recorded_default_that_would_be_a_mistake_today_is_none"),
    Mutation("a checkpoint of format 1 takes the defaults of today", "base/run_setup.py",
             "complete_config(config, former=format_1.DEFAULTS).complete", "complete_config(config).complete",
             "test_a_checkpoint_of_format_1_is_completed_from_the_defaults_of_1_0_0"),
    Mutation("a newer checkpoint is read", "utils/checkpoint/loading.py",
             'content["format"] > FORMAT:', "False:",
             "test_a_newer_format_is_refused_with_what_wrote_it"),
    Mutation("an optimizer's state is loaded by position", "utils/training/updater.py",
             "saved = _in_order(saved, state[\"names\"], self.names, self.optimizer.param_groups)", "pass",
             "test_an_optimizers_state_is_loaded_by_the_names_of_its_parameters"),
    Mutation("a position counts batches of whatever size", "utils/training/progress.py",
             'self.batch = -(-state["samples"] // self._batch_size)', "pass",
             "test_a_run_goes_on_with_other_batches_of_equal_steps[2-2-5]"),
    Mutation("steps may change their samples within an epoch", "base/run_setup.py",
             "_step_size(old) == _step_size(new)", "True",
             "test_steps_of_other_samples_are_refused_within_an_epoch"),
    Mutation("batches may leave other samples out within an epoch", "base/run_setup.py",
             "return not _leaves_samples_out(new) and _step_size(old)", "return _step_size(old)",
             "test_batches_that_would_leave_other_samples_out_are_refused_within_an_epoch"),
    Mutation("an error of a writer that has worked ends the run", "logger/feeder.py",
             "self._proven.add(id(writer))", "pass",
             "test_a_writer_that_has_worked_is_left_out_with_a_warning_that_the_end_repeats"),
    Mutation("a writer's first call ends a resumed run", "base/run_setup.py",
             ", resumed=start_step is not None)", ")",
             "test_a_broken_writer_ends_a_new_run_and_no_resumed_one"),
    Mutation("--check talks to services", "tools/check.py",
             "if outside or not ", "if True or ",
             "test_a_writer_that_talks_to_a_service_is_built_if_that_is_wanted"),
    Mutation("writers compute with several threads", "logger/feeder.py",
             "torch.set_num_threads(1)", "pass",
             "test_a_writer_that_computes_starts_no_second_team_of_threads"),
    Mutation("a report on a NaN forgets whether steps draw", "base/base_trainer.py",
             'state["progress"] |= {"finished": self.finished, "draws": self._step_seeds.drawn}',
             'state["progress"] |= {"finished": self.finished}',
             "test_the_steps_of_a_run_draw_by_its_seed_also_after_a_resume_at_any"),
    Mutation("an updater that a trainer made itself has a guard of its own", "utils/training/updater.py",
             "        self.guard = guard\n", "        pass\n",
             "test_updaters_that_a_trainer_made_itself_are_guarded_too"),
]


def copy_project(target: Path) -> None:
    """The files of the project that git knows or would add, in a new folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():  # not one that was deleted and is known still
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)


def mutate(mutation: Mutation, project: Path) -> None:
    """Makes the mistake in a copy of the project, where the old text has to stand exactly once."""
    file = project / mutation.file
    text = file.read_text(encoding="utf-8")
    count = text.count(mutation.old)
    assert count == 1, f"{mutation.name}: {mutation.old!r} stands {count} times in {mutation.file}, not once"
    file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def node_ids(tests: str, project: Path) -> list[str]:
    """The tests for pytest: `tests/core/test_x.py::test_name` for each name."""
    files = {file: file.read_text(encoding="utf-8") for file in sorted(project.glob("tests/**/test_*.py"))}
    ids = []
    for name in tests.split():
        definition = re.compile(rf"^def {name.partition('[')[0]}\(", re.MULTILINE)
        found = [file for file, text in files.items() if definition.search(text)]
        assert len(found) == 1, f"{len(found)} files, and not one, define {name}"
        ids.append(f"{found[0].relative_to(project)}::{name}")
    return ids


def run_tests(tests: str, project: Path) -> tuple[int, str]:
    """pytest's exit code, and what it printed."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", ""]  # those that are marked, too
    command = [sys.executable, "-m", "pytest", *options, *node_ids(tests, project)]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        try:
            said, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            said += f"\nstill running after {LIMIT_S} s"
    return process.returncode, said


def all_tests() -> str:
    """Every test that a mutation names, once."""
    return " ".join(dict.fromkeys(name for mutation in MUTATIONS for name in mutation.tests.split()))


def main(arguments: list[str]) -> int:
    words = [word for word in arguments if word != "-v"]
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    num_survived = 0
    for mutation in chosen:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            copy_project(Path(folder))
            mutate(mutation, Path(folder))
            code, said = run_tests(mutation.tests, Path(folder))
        outcome = {PASSED: "SURVIVED", FAILED: "noticed"}.get(code, f"exit code {code}")
        num_survived += code != FAILED
        print(f"{outcome:9} {time.monotonic() - started:5.1f} s  {mutation.name}", flush=True)
        if code not in (PASSED, FAILED) or "-v" in arguments:
            print(said)
    return min(num_survived, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
