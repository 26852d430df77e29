"""Pure: the filters and weighers of the scheduler, and the policy that a cloud makes of them."""
