using System.Text.RegularExpressions;

namespace Native.Server.Hub;

/// <summary>A model on the Hugging Face hub, as one writes it: <c>hf:ORG/REPO[/FILE][@REVISION]</c>.</summary>
/// <param name="Repository"><c>ORG/REPO</c>.</param>
/// <param name="File">A file in it, folders included; null: the model that the repository is.</param>
/// <param name="Revision">A branch, a tag or a commit.</param>
public sealed partial record HubReference(string Repository, string? File, string Revision)
{
    /// <summary>How a reference is written, for messages.</summary>
    public const string Form = "hf:ORG/REPO, with /FILE for one of its files and @REVISION for another than main";

    /// <summary>The revision where none is named.</summary>
    public const string DefaultRevision = "main";

    private const string Prefix = "hf:";

    /// <summary>Whether <paramref name="model"/> means the hub, not a path; it may still be no reference.</summary>
    public static bool IsMeant(string model) => model.StartsWith(Prefix, StringComparison.Ordinal);

    /// <summary>Reads a reference. False where it is none.</summary>
    public static bool TryParse(
        string text, [System.Diagnostics.CodeAnalysis.NotNullWhen(true)] out HubReference? reference)
    {
        reference = null;
        if (!IsMeant(text)) return false;
        // Names of repositories have no @, and names of files next to never.
        int at = text.IndexOf('@', StringComparison.Ordinal);
        string revision = at < 0 ? DefaultRevision : text[(at + 1)..];
        string[] parts = text[Prefix.Length..(at < 0 ? text.Length : at)].Split('/', 3);
        if (parts.Length < 2 || !Name().IsMatch(parts[0]) || !Name().IsMatch(parts[1])) return false;
        if (!IsRelativePath(revision) || (parts.Length == 3 && !IsRelativePath(parts[2]))) return false;
        reference = new HubReference($"{parts[0]}/{parts[1]}", parts.Length == 3 ? parts[2] : null, revision);
        return true;
    }

    /// <summary>Whether a name, which may come from the hub, stays below the folder it is put in, on any
    /// system.</summary>
    internal static bool IsRelativePath(string path)
    {
        if (path.Length is 0 or > 1024) return false;
        foreach (string part in path.Split('/'))
            if (part.Length is 0 or > 255 || part is "." or ".."
                || part.Any(c => char.IsControl(c) || c is '\\' or ':')) return false;
        return true;
    }

    public override string ToString() =>
        $"{Prefix}{Repository}{(File is null ? "" : "/" + File)}{(Revision == DefaultRevision ? "" : "@" + Revision)}";

    // The hub's rule; -- stands for the slash in names of folders, so it must not be in a name.
    [GeneratedRegex(@"\A(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?\z")]
    private static partial Regex Name();
}
