using Microsoft.Extensions.Logging;
using Native.Scheduling.Slo;

namespace Native.Server.Slo;

/// <summary>Saves the error budgets once a second, and when the server ends.</summary>
internal sealed class BudgetKeeper : IDisposable
{
    private static readonly TimeSpan SaveEvery = TimeSpan.FromSeconds(1);

    private readonly Lock _saving = new();
    private readonly string _path;
    private readonly BudgetFile _file;
    private readonly ILogger _logger;
    private readonly Timer _timer;
    private bool _failed;
    private bool _disposed;

    /// <summary>Puts a file's counts back into a ledger that counts nothing yet.</summary>
    /// <exception cref="IOException">It can't be kept there; the message names the option and the path.</exception>
    public BudgetKeeper(string path, BudgetLedger ledger, ILogger logger)
    {
        _path = path;
        _logger = logger;
        List<string> warnings = [];
        try
        {
            _file = BudgetFile.Open(path, ledger, warnings);
        }
        catch (Exception e) when (e is IOException or InvalidDataException)
        {
            throw new IOException($"--slo-state: {e.Message}", e);
        }
        foreach (string warning in warnings) logger.LogWarning("{Warning}", warning);
        _timer = new Timer(_ => Save(), null, SaveEvery, SaveEvery);
    }

    /// <summary>Saves what was counted since; call it when the engine has ended.</summary>
    public void Dispose()
    {
        _timer.Dispose();
        Save();
        lock (_saving)
        {
            _disposed = true;
            _file.Dispose();
        }
    }

    private void Save()
    {
        lock (_saving) // a disk that takes longer than a second is asked once at a time
        {
            if (_disposed) return;
            try
            {
                _file.Save();
                if (_failed) _logger.LogWarning("the error budgets are saved again");
                _failed = false;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                if (!_failed)
                {
                    _logger.LogWarning(
                        "--slo-state: the error budgets can't be saved in '{Path}': {Message}", _path, e.Message);
                }
                _failed = true;
            }
        }
    }
}
