// The columns of a batch, listed once: for whoever does something with each of them.
#pragma once

namespace fastdqn {

// Calls visit(name, pointer) for each column that a BatchView and a PlanView share, one value a transition.
// The names are those of the members, and of Python's arrays.
template <class View, class Visit>
void each_column(View& view, const Visit& visit) {
  visit("action", view.action);
  visit("reward", view.reward);
  visit("discount", view.discount);
  visit("weight", view.weight);
  visit("row", view.row);
}

}  // namespace fastdqn
