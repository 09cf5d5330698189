"""The update that each backup diagram stands for, as the field writes it; r is the reward of the transition from s."""

_MAX = r"r + \gamma\,\max_{a'} Q(s',a')"


def _model(left: str, value: str) -> str:
    """The expectation over successors."""
    return rf"${left}\sum_{{s'}} p(s'|s,a)\,\left[\,r + \gamma\,{value}\right]$"


def _step(target: str) -> str:
    """A step of Q towards a target."""
    return rf"$Q(s,a) \leftarrow Q(s,a) + \alpha\,\left[\,{target} - Q(s,a)\right]$"


def _n_steps(value: str) -> str:
    return rf"$G_{{t:t+n}} = r_t + \gamma\,r_{{t+1}} + \ldots + \gamma^{{n-1}}\,r_{{t+n-1}} + \gamma^n\,{value}$"


def _traces(at: str, table: str) -> str:
    mark = rf"e \leftarrow \gamma\lambda\,e, \quad e({at}) \leftarrow e({at}) + 1"
    return rf"${mark}, \quad {table} \leftarrow {table} + \alpha\,\delta_t\,e$"


EQUATIONS: dict[str, tuple[str, ...]] = {
    "v_pi": (_model(r"v_\pi(s) = \sum_a \pi(a|s)\,", r"v_\pi(s')"),),
    "v_star": (_model(r"v_*(s) = \max_a\,", r"v_*(s')"),),
    "q_pi": (_model("q_\\pi(s,a) = ", r"\sum_{a'} \pi(a'|s')\,q_\pi(s',a')"),),
    "q_star": (_model("q_*(s,a) = ", r"\max_{a'} q_*(s',a')"),),
    "td0": (r"$V(s) \leftarrow V(s) + \alpha\,\left[\,r + \gamma\,V(s') - V(s)\right]$",),
    "n_step_td": (
        r"$V(s_t) \leftarrow V(s_t) + \alpha\,\left[\,G_{t:t+n} - V(s_t)\right]$",
        _n_steps(r"V(s_{t+n})"),
    ),
    "monte_carlo": (
        r"$V(s_t) \leftarrow V(s_t) + \alpha\,\left[\,G_t - V(s_t)\right]$",
        r"$G_t = r_t + \gamma\,r_{t+1} + \gamma^2\,r_{t+2} + \ldots$",
    ),
    "sarsa": (_step(r"r + \gamma\,Q(s',a')"),),
    "n_step_sarsa": (
        r"$Q(s_t,a_t) \leftarrow Q(s_t,a_t) + \alpha\,\left[\,G_{t:t+n} - Q(s_t,a_t)\right]$",
        _n_steps(r"Q(s_{t+n},a_{t+n})"),
    ),
    "expected_sarsa": (_step(r"r + \gamma\,\sum_{a'} \pi(a'|s')\,Q(s',a')"),),
    "q_learning": (_step(_MAX),),
    "double_q_learning": (
        r"$Q_1(s,a) \leftarrow Q_1(s,a) + \alpha\,\left[\,r + \gamma\,Q_2(s',a^*) - Q_1(s,a)\right]$",
        r"$a^* = \mathrm{argmax}_{a'}\,Q_1(s',a')$",
    ),
    "r_learning": (_step(r"r - \rho + \max_{a'} Q(s',a')"),),
    "dyna_q": (_step(_MAX),),
    "dyna_q_plus": (_step(r"r + \kappa\sqrt{\tau(s,a)} + \gamma\,\max_{a'} Q(s',a')"),),
    "tree_backup": (
        r"$G_t = r_t + \gamma\,\sum_{a \neq a_{t+1}} \pi(a|s_{t+1})\,Q(s_{t+1},a)"
        r" + \gamma\,\pi(a_{t+1}|s_{t+1})\,G_{t+1}$",
        r"$Q(s_t,a_t) \leftarrow Q(s_t,a_t) + \alpha\,\left[\,G_t - Q(s_t,a_t)\right]$",
    ),
    "lambda_return": (
        r"$G_t^\lambda = (1-\lambda)\,\sum_{n=1}^{T-t-1} \lambda^{n-1}\,G_{t:t+n} + \lambda^{T-t-1}\,G_t$",
        r"$V(s_t) \leftarrow V(s_t) + \alpha\,\left[\,G_t^\lambda - V(s_t)\right]$",
    ),
    "td_lambda": (
        r"$\delta_t = r_t + \gamma\,V(s_{t+1}) - V(s_t)$",
        _traces("s_t", "V"),
    ),
    "true_online_td_lambda": (
        r"$\delta_t = r_t + \gamma\,V(s_{t+1}) - V(s_t)$, with dutch traces",
        r"the online $\lambda$-return of every step, exactly",
    ),
    "sarsa_lambda": (
        r"$\delta_t = r_t + \gamma\,Q(s_{t+1},a_{t+1}) - Q(s_t,a_t)$",
        _traces("s_t,a_t", "Q"),
    ),
    "watkins_q_lambda": (
        r"$\delta_t = r_t + \gamma\,\max_a Q(s_{t+1},a) - Q(s_t,a_t)$",
        _traces("s_t,a_t", "Q"),
    ),
}
